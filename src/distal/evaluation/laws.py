"""What a certificate asks of two laws, computed for many reweightings of two samples at once.

Both samples are sorted once. A resample is then nothing but a weight per sorted value, and every statistic follows
from the cumulative weights: no resample is sorted. Where each value was drawn a whole number of times and the
sizes are those of the samples, the resample's own sorted values are written out (`of_counts`, the fast way);
weights of any kind take the way over cumulative shares (`of_weights`). Both are the same estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from distal.evaluation.statistics import FloatArray, SortedPair, pair_credits, quantile_ranks
from distal.transport.dominance import squared_sides
from distal.transport.solver import staircase

__all__ = ["Frame", "Statistics", "concatenated", "merged_cells", "of_counts", "of_weights"]

IntArray = NDArray[np.intp]

_GRID = 200
"""Points at which the distribution functions are compared; all values where there are no more."""

_ROUNDING = 1e-12
"""Slack of cumulative shares, as in `quantile_ranks`; cells of unweighted samples are wider up to a million a side."""


class Statistics(NamedTuple):
    """What is asked of two laws, for r reweightings.

    Attributes:
        mean_gap: mean of u minus mean of v, shape (r,).
        auc: P(U > V) + P(U = V) / 2, shape (r,).
        gap: quantile gap at each level, shape (r, levels).
        lag: F_u - F_v at some points, shape (r, points): above 0 where dominance is violated.
        wrong: `int (Q_u - Q_v)_-^2`, shape (r,).
        right: `int (Q_u - Q_v)_+^2`, shape (r,).
        accuracy: share of pairs with u above v, ties half, shape (r,); None without pairs.
        integrated: `int_0^t (Q_u - Q_v)` at each level, shape (r, levels); None unless asked for.
        wrong2: as `wrong`, of the integrated gap, shape (r,); None unless asked for.
        right2: as `right`, of the integrated gap, shape (r,); None unless asked for.
    """

    mean_gap: FloatArray
    auc: FloatArray
    gap: FloatArray
    lag: FloatArray
    wrong: FloatArray
    right: FloatArray
    accuracy: FloatArray | None = None
    integrated: FloatArray | None = None
    wrong2: FloatArray | None = None
    right2: FloatArray | None = None


def concatenated(parts: Sequence[Statistics]) -> Statistics:
    """Several blocks of reweightings as one."""
    columns: Any = zip(*parts, strict=True)
    joined: Any = (None if column[0] is None else np.concatenate(column) for column in columns)
    return Statistics(*joined)


@dataclass(frozen=True, slots=True)
class Frame:
    """Two samples, sorted once, and the places at which their laws are looked at.

    Attributes:
        pair: the samples.
        levels: levels of the quantile gap, in (0, 1).
        points: values at which the distribution functions are compared, ascending.
        u_upto: how many of u are at or below each point.
        v_upto: how many of v.
        credit: 2, 1 or 0 for each sorted u: twice its pair's share in the accuracy; None without pairs.
        second_order: whether integrated quantiles are wanted as well.
        ties: whether some value of u is one of v.
    """

    pair: SortedPair
    levels: FloatArray
    points: FloatArray
    u_upto: IntArray
    v_upto: IntArray
    credit: IntArray | None
    second_order: bool
    ties: bool

    @classmethod
    def of(
        cls,
        u: FloatArray,
        v: FloatArray,
        levels: FloatArray,
        *,
        paired: bool,
        second_order: bool = False,
        points: FloatArray | None = None,
    ) -> Frame:
        """Sort both samples.

        Args:
            u: first sample, shape (n,).
            v: second sample, shape (m,).
            levels: levels in (0, 1), ascending.
            paired: whether u_i and v_i belong together, so that ranking pairs means something.
            second_order: whether integrated quantiles are wanted.
            points: where distribution functions are compared; None for values of the samples.
        """
        pair = SortedPair.of(u, v)
        if points is None:
            points = np.unique(np.concatenate([u, v]))
            if points.size > _GRID:
                points = points[np.linspace(0, points.size - 1, _GRID).astype(np.intp)]
        return cls(
            pair=pair,
            levels=levels,
            points=points,
            u_upto=np.searchsorted(pair.u, points, side="right"),
            v_upto=np.searchsorted(pair.v, points, side="right"),
            credit=(2 * pair_credits(u, v)).astype(np.intp)[pair.u_order] if paired else None,
            second_order=second_order,
            ties=bool((pair.below != pair.not_above).any()),
        )

    def quantiles(self, on_u: FloatArray, on_v: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Quantiles of both weighted samples at the levels.

        Args:
            on_u: weight of each sorted u, shape (n,).
            on_v: the same for v, shape (m,).
        """
        u, v = (np.concatenate([[0.0], np.cumsum(side)]) for side in (on_u, on_v))
        ranks = (_ranks_at((side / side[-1])[None], self.levels)[0] for side in (u, v))
        return self.pair.u[next(ranks)], self.pair.v[next(ranks)]


def of_counts(frame: Frame, on_u: IntArray, on_v: IntArray) -> Statistics:
    """Statistics of resamples that are as large as the samples.

    Args:
        frame: the samples.
        on_u: how often each sorted u was drawn, shape (r, n), rows adding up to n.
        on_v: how often each sorted v was drawn, shape (r, m), rows adding up to m.
    """
    pair, n, m = frame.pair, frame.pair.u.size, frame.pair.v.size
    upto_u, upto_v = _cumulative(on_u), _cumulative(on_v)
    x, y = _written_out(pair.u, upto_u[:, 1:]), _written_out(pair.v, upto_v[:, 1:])
    if n == m:  # cells of one size
        mass, gap = np.full(n, 1 / n), x - y
        weighed = gap
    else:
        cells = _cells(n, m)
        mass, gap = cells.mass, np.take(x, cells.u_rank, axis=1) - np.take(y, cells.v_rank, axis=1)
        weighed = gap * cells.root
    below = np.minimum(weighed, 0)
    above = weighed - below
    wrong, right = (np.einsum("ri,ri->r", side, side) / (n if n == m else 1) for side in (below, above))
    u_rank, v_rank = quantile_ranks(frame.levels, n) - 1, quantile_ranks(frame.levels, m) - 1
    return Statistics(
        mean_gap=x.mean(1) - y.mean(1),
        auc=_wins(frame, on_u, upto_v) / (2 * n * m),
        gap=x[:, u_rank] - y[:, v_rank],
        lag=upto_u[:, frame.u_upto] / n - upto_v[:, frame.v_upto] / m,
        wrong=wrong,
        right=right,
        accuracy=None if frame.credit is None else _weighted(on_u, frame.credit) / (2 * n),
        **_second_order(frame, gap, np.broadcast_to(mass, gap.shape)),
    )


def of_weights(frame: Frame, on_u: NDArray[Any], on_v: NDArray[Any]) -> Statistics:
    """Statistics of weighted samples.

    Args:
        frame: the samples.
        on_u: non-negative weight of each sorted u, shape (r, n), no row all zero.
        on_v: the same for v, shape (r, m).
    """
    pair = frame.pair
    upto_u, upto_v = _cumulative(on_u), _cumulative(on_v)
    total_u, total_v = upto_u[:, -1:], upto_v[:, -1:]
    share_u, share_v = upto_u / total_u, upto_v / total_v
    u_rank, v_rank, mass = _merged(share_u[:, 1:], share_v[:, 1:])
    gap = pair.u[u_rank] - pair.v[v_rank]
    wrong, right = (
        np.einsum("ri,ri->r", mass, np.square(side)) for side in (np.minimum(gap, 0), np.maximum(gap, 0))
    )
    quantile_gap = pair.u[_ranks_at(share_u, frame.levels)] - pair.v[_ranks_at(share_v, frame.levels)]
    return Statistics(
        mean_gap=_weighted(on_u, pair.u) / total_u[:, 0] - _weighted(on_v, pair.v) / total_v[:, 0],
        auc=_wins(frame, on_u, upto_v) / (2 * total_u * total_v)[:, 0],
        gap=quantile_gap,
        lag=share_u[:, frame.u_upto] - share_v[:, frame.v_upto],
        wrong=wrong,
        right=right,
        accuracy=None if frame.credit is None else _weighted(on_u, frame.credit) / (2 * total_u[:, 0]),
        **_second_order(frame, gap, mass),
    )


class _Cells(NamedTuple):
    """Cells between the breaks of samples of two sizes: ranks, mass, and the root of the mass."""

    u_rank: IntArray
    v_rank: IntArray
    mass: FloatArray
    root: FloatArray


@lru_cache(maxsize=4)  # the same for every block of resamples
def _cells(n: int, m: int) -> _Cells:
    found = staircase(n, m, torch.device("cpu"))
    mass = found.mass.numpy()
    return _Cells(found.u_rank.numpy(), found.v_rank.numpy(), mass, np.sqrt(mass))


def merged_cells(on_u: NDArray[Any], on_v: NDArray[Any]) -> tuple[IntArray, IntArray, FloatArray]:
    """Ranks of u and of v in the cells between the breaks of two weighted samples, and the mass of each cell.

    Args:
        on_u: weight of each sorted u, shape (n,).
        on_v: the same for v, shape (m,).

    Returns:
        Three arrays of shape (n + m - 1,).
    """
    u, v = (np.cumsum(side)[None] for side in (on_u, on_v))
    u_rank, v_rank, mass = _merged(u / u[:, -1:], v / v[:, -1:])
    return u_rank[0], v_rank[0], mass[0]


def _cumulative(weights: NDArray[Any]) -> NDArray[Any]:
    """Cumulative sums with a leading zero: entry k is the weight of the first k values."""
    padded = np.zeros((weights.shape[0], weights.shape[1] + 1), dtype=weights.dtype)
    np.cumsum(weights, axis=1, out=padded[:, 1:])
    return padded


def _weighted(weights: NDArray[Any], values: NDArray[Any]) -> FloatArray:
    """Weighted sums, shape (r,). Not by the operator @, whose library's own threads would disturb ours."""
    return np.einsum("ri,i->r", weights, values)


def _written_out(values: FloatArray, reached: NDArray[Any]) -> FloatArray:
    """The sorted resamples themselves: position j holds the first value whose cumulative count exceeds j."""
    rows, size = reached.shape
    shifted = reached if rows == 1 else reached + (size + 1) * np.arange(rows)[:, None]
    passed = np.bincount(shifted.ravel(), minlength=rows * (size + 1)).reshape(rows, size + 1)
    return np.take(values, np.cumsum(passed[:, :size], axis=1))


def _wins(frame: Frame, on_u: NDArray[Any], upto_v: NDArray[Any]) -> FloatArray:
    """Twice the weight of pairs in which u exceeds v, ties half."""
    beaten = np.take(upto_v, frame.pair.below, axis=1)
    if not frame.ties:  # both counts are one then
        return 2.0 * np.einsum("ri,ri->r", on_u, beaten)
    return np.einsum("ri,ri->r", on_u, beaten + np.take(upto_v, frame.pair.not_above, axis=1)).astype(
        np.float64
    )


def _merged(u: FloatArray, v: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Ranks of u and of v in the cells between the breaks of both, and the mass of each cell, shape (r, n + m - 1)."""
    n, m = u.shape[1], v.shape[1]
    breaks = np.concatenate([u[:, :-1], v[:, :-1]], axis=1)
    order = breaks.argsort(axis=1, kind="stable")  # two sorted runs, which a stable sort only merges
    ends = np.ones((u.shape[0], n + m - 1))
    ends[:, :-1] = np.take_along_axis(breaks, order, axis=1)
    u_rank = np.zeros(ends.shape, dtype=np.intp)
    np.cumsum(order < n - 1, axis=1, out=u_rank[:, 1:])
    mass = np.diff(ends, axis=1, prepend=0.0)
    mass[mass < _ROUNDING] = 0.0  # two breaks that would be one in exact numbers
    return u_rank, np.arange(n + m - 1) - u_rank, mass


def _ranks_at(shares: FloatArray, levels: FloatArray) -> IntArray:
    """The first value whose cumulative share reaches each level, shape (r, levels)."""
    wanted, last = levels * (1 - _ROUNDING), shares.shape[1] - 2
    found = np.stack([np.searchsorted(row[1:], wanted, side="left") for row in shares])
    return np.minimum(found, last)


def _second_order(frame: Frame, gap: FloatArray, mass: FloatArray) -> dict[str, FloatArray]:
    """The integrated gap at each level, and its two sides; nothing where it is not wanted."""
    if not frame.second_order:
        return {}
    wrong, right = squared_sides(torch.from_numpy(gap), torch.from_numpy(np.array(mass)), 2)
    after, ends = np.cumsum(mass * gap, axis=1), np.cumsum(mass, axis=1)
    integrated = np.stack(
        [
            np.interp(frame.levels, np.concatenate([[0.0], x]), np.concatenate([[0.0], y]))
            for x, y in zip(ends, after, strict=True)
        ]
    )
    return {"integrated": integrated, "wrong2": wrong.numpy(), "right2": right.numpy()}
