"""Rank statistics of two samples of rewards, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from distal.errors import DataError, NonFiniteError

__all__ = [
    "FloatArray",
    "RewardsLike",
    "SortedPair",
    "area_under_curve",
    "as_rewards",
    "pair_credits",
    "quantile_ranks",
    "quantiles",
]

FloatArray: TypeAlias = NDArray[np.float64]
RewardsLike: TypeAlias = torch.Tensor | NDArray[Any] | Sequence[float]

_ROUNDING = 1e-12
"""Relative slack when a level times a count should be a whole number, such as 0.29 * 100."""


def as_rewards(values: RewardsLike, name: str) -> FloatArray:
    """Rewards as a float64 vector, refused where they are empty, not one-dimensional, or not finite.

    Args:
        values: rewards in nats, shape (n,); any floating dtype, on any device.
        name: what the rewards are called in messages.

    Returns:
        A float64 array of shape (n,), n >= 2.

    Raises:
        DataError: fewer than two values, or not one-dimensional.
        NonFiniteError: a value is NaN or infinite.

    Examples:
        >>> as_rewards([1, 2], "preferred")
        array([1., 2.])
    """
    raw = values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values
    try:
        array = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the {name} rewards are not a list of numbers: {error}") from error
    if array.ndim != 1:
        raise DataError(
            f"the {name} rewards must be one-dimensional, got shape {array.shape}; flatten them first"
        )
    if array.size < 2:
        raise DataError(
            f"the {name} side holds {array.size} reward(s), and a distribution needs at least 2; "
            "check that the held-out data contains both preferred and other responses"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise NonFiniteError(
            f"{bad.size} of {array.size} {name} rewards are not finite, the first at index {bad[0]} "
            f"({array[bad[0]]}); look for NaN in the model's weights or for overflow in half precision"
        )
    return array


@dataclass(frozen=True, slots=True)
class SortedPair:
    """Two samples sorted once, with what every resample of them needs.

    Attributes:
        u: first sample, ascending, shape (n,).
        v: second sample, ascending, shape (m,).
        u_order: original position of each sorted value of `u`, so that pairs can be drawn jointly.
        v_order: the same for `v`.
        below: for each sorted `u`, how many values of `v` are smaller.
        not_above: for each sorted `u`, how many values of `v` are smaller or equal.
    """

    u: FloatArray
    v: FloatArray
    u_order: NDArray[np.intp]
    v_order: NDArray[np.intp]
    below: NDArray[np.intp]
    not_above: NDArray[np.intp]

    @classmethod
    def of(cls, u: FloatArray, v: FloatArray) -> SortedPair:
        """Sort both samples, O(n log n + m log m)."""
        u_order, v_order = np.argsort(u, kind="stable"), np.argsort(v, kind="stable")
        u_sorted, v_sorted = u[u_order], v[v_order]
        below = np.searchsorted(v_sorted, u_sorted, side="left")
        not_above = np.searchsorted(v_sorted, u_sorted, side="right")
        return cls(u_sorted, v_sorted, u_order, v_order, below, not_above)


def area_under_curve(u: FloatArray, v: FloatArray) -> float:
    """Probability that a draw of u exceeds a draw of v, ties counting half: `P(U > V) + P(U = V) / 2`.

    This is the Mann-Whitney statistic divided by `n * m`, from ranks in O((n + m) log(n + m)).

    Args:
        u: first sample, shape (n,).
        v: second sample, shape (m,).

    Returns:
        A number in [0, 1]; 0.5 where the samples coincide.

    Examples:
        >>> area_under_curve(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
        0.875
    """
    pair = SortedPair.of(u, v)
    return float(np.sum(pair.below + pair.not_above)) / (2 * u.size * v.size)


def pair_credits(u: FloatArray, v: FloatArray) -> FloatArray:
    """Per pair: 1 where u exceeds v, 1/2 where they tie, 0 otherwise; shape (n,)."""
    return (np.sign(u - v) + 1) / 2


def quantiles(sorted_values: FloatArray, levels: FloatArray) -> FloatArray:
    """Left-continuous quantiles of an ascending sample: `Q(t) = x_(ceil(n t))`.

    Args:
        sorted_values: ascending sample, shape (n,).
        levels: levels in (0, 1), shape (k,).

    Returns:
        Quantiles, shape (k,), in the unit of the sample.

    Examples:
        >>> quantiles(np.array([10.0, 20.0, 30.0, 40.0]), np.array([0.25, 0.26, 0.99]))
        array([10., 20., 40.])
    """
    return sorted_values[quantile_ranks(levels, sorted_values.size) - 1]


def quantile_ranks(levels: FloatArray, count: int) -> NDArray[np.intp]:
    """The 1-based rank `ceil(count * level)` of each level."""
    return np.clip(np.ceil(levels * count * (1 - _ROUNDING)), 1, count).astype(np.intp)
