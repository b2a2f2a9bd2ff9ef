"""Splits that keep all units of one prompt on one side."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distal.errors import ConfigError, DataError

__all__ = ["split_by_group", "split_size"]


def split_size(n_or_fraction: int | float, total: int) -> int:
    """The number of units that a number or a fraction means.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(n_or_fraction, float) and 0 < n_or_fraction < 1:
        return max(1, round(n_or_fraction * total))
    if (
        isinstance(n_or_fraction, (int, np.integer))
        and not isinstance(n_or_fraction, bool)
        and n_or_fraction > 0
    ):
        return int(n_or_fraction)
    raise ConfigError(
        f"a split of {n_or_fraction!r}: give a whole number of units, or a fraction between 0 and 1 (exclusive)"
    )


def split_by_group(
    keys: ArrayLike, n_or_fraction: int | float, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the units that stay, and of those held out.

    Groups are shuffled and held out one by one until the held-out side has as many units as asked for; with the last
    group it may have a few more. Both sides keep the shuffled order of groups, and inside a group that of the units.

    Args:
        keys: one number per unit, equal for units that belong together, (n,).
        n_or_fraction: size of the held-out side.
        seed: of the shuffle.
        name: the data set, for messages.

    Raises:
        ConfigError: the size is no number of units or fraction.
        DataError: one side would be empty.

    Examples:
        >>> rest, held = split_by_group([5, 5, 7, 7, 7, 9], 2, 0, "rows")
        >>> sorted(rest.tolist() + held.tolist()), len(held) >= 2
        ([0, 1, 2, 3, 4, 5], True)
    """
    units = np.asarray(keys, dtype=np.uint64)
    total = len(units)
    wanted = split_size(n_or_fraction, total)
    _, groups = np.unique(units, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] if total else groups
    order = np.argsort(rank, kind="stable")
    ends = np.flatnonzero(np.diff(rank[order], append=-1)) + 1
    cut = int(ends[np.searchsorted(ends, wanted)]) if len(ends) and wanted <= ends[-1] else total
    if cut == 0 or cut == total:
        raise DataError(
            f"{name}: cannot hold out {wanted} of {total} units: with {len(ends)} different prompts kept whole, one "
            f"side would be empty; hold out fewer, or give a separate evaluation set"
        )
    return order[cut:], order[:cut]
