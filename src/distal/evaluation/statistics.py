"""Rank statistics of two samples of rewards, and their bootstrap, on NumPy arrays.

The bootstrap never sorts twice: both samples are sorted once, a resample is the vector of how often each
value was drawn, and every statistic is a cumulative sum over those counts. A resample costs O(n + m), and
resamples are drawn in blocks of bounded size, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    "bootstrap",
    "pair_credits",
    "percentile_interval",
    "quantiles",
]

FloatArray: TypeAlias = NDArray[np.float64]
RewardsLike: TypeAlias = torch.Tensor | NDArray[Any] | Sequence[float]

_BLOCK = 1 << 20
"""Largest number of counts held at once by the bootstrap (8 MiB per array)."""

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

    Example:
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

    Example:
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

    Example:
        >>> quantiles(np.array([10.0, 20.0, 30.0, 40.0]), np.array([0.25, 0.26, 0.99]))
        array([10., 20., 40.])
    """
    return sorted_values[_ranks(levels, sorted_values.size) - 1]


def percentile_interval(draws: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end of the central interval of bootstrap draws, over the first axis."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


@dataclass(frozen=True, slots=True)
class BootstrapDraws:
    """Statistics of every resample.

    Attributes:
        auc: area under the curve, shape (resamples,).
        mean_gap: mean(u) - mean(v), shape (resamples,).
        gap: quantile gap at each level, shape (resamples, levels).
        accuracy: share of pairs with u above v (ties half), shape (resamples,); None when not paired.
    """

    auc: FloatArray
    mean_gap: FloatArray
    gap: FloatArray
    accuracy: FloatArray | None


def bootstrap(
    u: FloatArray, v: FloatArray, levels: FloatArray, *, paired: bool, resamples: int, seed: int
) -> BootstrapDraws:
    """Resample both samples with replacement and collect their statistics.

    Args:
        u: first sample, shape (n,).
        v: second sample, shape (m,); n = m when paired.
        levels: levels of the quantile gap, in (0, 1), shape (k,).
        paired: draw the pairs (u_i, v_i) jointly; otherwise each side is drawn on its own.
        resamples: how many resamples.
        seed: seed of the draws.

    Returns:
        One value of each statistic per resample.
    """
    pair = SortedPair.of(u, v)
    credit = pair_credits(u, v) if paired else None
    blocks = [
        _block_statistics(pair, levels, counts_u, counts_v, credit)
        for counts_u, counts_v in _count_blocks(pair, paired=paired, resamples=resamples, seed=seed)
    ]
    auc, mean_gap, gap = (
        np.concatenate([getattr(b, name) for b in blocks]) for name in ("auc", "mean_gap", "gap")
    )
    accuracy = (
        None if credit is None else np.concatenate([b.accuracy for b in blocks if b.accuracy is not None])
    )
    return BootstrapDraws(auc, mean_gap, gap, accuracy)


def _ranks(levels: FloatArray, count: int) -> NDArray[np.intp]:
    """The 1-based rank `ceil(count * level)` of each level."""
    return np.clip(np.ceil(levels * count * (1 - _ROUNDING)), 1, count).astype(np.intp)


def _count_blocks(
    pair: SortedPair, *, paired: bool, resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """How often each sorted value was drawn, in blocks of resamples: shapes (block, n) and (block, m)."""
    generator = np.random.default_rng(seed)
    n, m = pair.u.size, pair.v.size
    block = max(1, _BLOCK // max(n, m))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        if paired:
            counts = _draw_counts(generator, rows, n)
            yield counts[:, pair.u_order], counts[:, pair.v_order]
        else:
            yield _draw_counts(generator, rows, n), _draw_counts(generator, rows, m)


def _draw_counts(generator: np.random.Generator, rows: int, size: int) -> NDArray[np.intp]:
    """Multinomial counts of `size` draws among `size` values, one row per resample."""
    drawn = generator.integers(0, size, size=(rows, size))
    drawn += size * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)


def _block_statistics(
    pair: SortedPair,
    levels: FloatArray,
    counts_u: NDArray[np.intp],
    counts_v: NDArray[np.intp],
    credit: FloatArray | None,
) -> BootstrapDraws:
    """Statistics of a block of resamples from the counts of their sorted values."""
    n, m = pair.u.size, pair.v.size
    cumulative_u, cumulative_v = np.cumsum(counts_u, axis=1), np.cumsum(counts_v, axis=1)
    drawn_before = np.concatenate([np.zeros((len(counts_v), 1), dtype=np.intp), cumulative_v], axis=1)
    wins = np.einsum("ri,ri->r", counts_u, drawn_before[:, pair.below] + drawn_before[:, pair.not_above])
    gap = _resampled_quantiles(pair.u, cumulative_u, levels) - _resampled_quantiles(
        pair.v, cumulative_v, levels
    )
    accuracy = None
    if credit is not None:
        accuracy = counts_u @ credit[pair.u_order] / n
    return BootstrapDraws(wins / (2 * n * m), counts_u @ pair.u / n - counts_v @ pair.v / m, gap, accuracy)


def _resampled_quantiles(values: FloatArray, cumulative: NDArray[np.intp], levels: FloatArray) -> FloatArray:
    """Quantiles of each resample: the first sorted value whose cumulative count reaches the rank."""
    rows, size = cumulative.shape
    # Every row ends at `size`: shifting row r by r * size makes the flat array ascending, for one search.
    shift = size * np.arange(rows)[:, None]
    flat = (cumulative + shift).ravel()
    found = np.searchsorted(flat, (_ranks(levels, size)[None, :] + shift).ravel(), side="left")
    return values[found.reshape(rows, -1) - shift]
