"""Isotonic regression by merging: which entries of a sequence are pooled into one block.

Pool-adjacent-violators walks the sequence entry by entry. Here neighbouring stretches are merged instead, all
of one length at once, so that the work is done by tensor operations: O(n log n) in all, on any device.

When two fitted stretches meet, only the end of the left one and the start of the right one can be pooled, and
into a single block. Its left end is found by bisection, its right end by another one; a stretch whose
boundary is in order costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 64
"""Length up to which a row is asked at all of its entries at once."""

__all__ = ["Pooling", "l2_pooling", "log_pooling", "pooled_blocks"]


@dataclass(frozen=True)
class Pooling:
    """How entries are pooled: running totals of each data row, how two combine, and the value of a total.

    Attributes:
        data: what is totalled, shape (rows, n); a padding entry holds `empty`.
        empty: the total of nothing.
        running: totals along the last dimension, from the left.
        combine: total of two disjoint stretches.
        value: fitted value of totals, shape (rows, ...) -> (...).
    """

    data: Tensor
    empty: float
    running: Callable[[Tensor], Tensor]
    combine: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], Tensor]


def l2_pooling(y: Tensor) -> Pooling:
    """Pool to the mean: the least-squares fit of `y`, shape (n,)."""
    return Pooling(
        data=torch.stack([y, torch.ones_like(y)]),
        empty=0.0,
        running=lambda x: x.cumsum(-1),
        combine=torch.add,
        value=lambda total: total[0] / total[1],
    )


def log_pooling(z: Tensor, a: Tensor) -> Pooling:
    """Pool to `log sum exp(z) - log sum exp(a)`: the entropic fit of `z - a`, shape (n,) each."""
    return Pooling(
        data=torch.stack([z, a]),
        empty=-torch.inf,
        running=lambda x: x.logcumsumexp(-1),
        combine=torch.logaddexp,
        value=lambda total: total[0] - total[1],
    )


def pooled_blocks(pooling: Pooling) -> Tensor:
    """Blocks of the non-decreasing fit.

    Args:
        pooling: data of n entries and the rule to pool them.

    Returns:
        Index of each entry's block, from 0, non-decreasing, int64, shape (n,).
    """
    n = pooling.data.shape[-1]
    fit = pooling.value(pooling.data)
    if not bool((fit[1:] < fit[:-1]).any()):
        return torch.arange(n, device=fit.device)
    size = 1 << (n - 1).bit_length()
    data = torch.nn.functional.pad(pooling.data, (0, size - n), value=pooling.empty)
    fit = torch.nn.functional.pad(fit, (0, size - n), value=torch.inf)
    length = 1
    while length < size:
        fit = _merge_neighbours(fit.view(-1, 2 * length), data.view(2, -1, 2 * length), pooling).view(-1)
        length *= 2
    starts = torch.nn.functional.pad((fit[1:n] > fit[: n - 1]).long(), (1, 0))
    return starts.cumsum(0)


def _merge_neighbours(fit: Tensor, data: Tensor, pooling: Pooling) -> Tensor:
    """Fit each row of `fit`, shape (p, 2 l), given that both of its halves are fitted."""
    length = fit.shape[-1] // 2
    (rows,) = torch.where(fit[:, length - 1] > fit[:, length])
    if rows.numel() == 0:
        return fit
    left, right = fit[rows, :length].contiguous(), fit[rows, length:].contiguous()
    totals = _Totals.of(data[:, rows], pooling)
    start = _first(left, lambda level: ~_pools_above(level, left, right, totals))
    end = _first(right, lambda level: _stays_above(level, start, right, totals))
    value = totals.value(start, end)
    at = torch.arange(2 * length, device=fit.device)
    pooled = (at >= start) & (at < length + end)
    fit[rows] = torch.where(pooled, value, fit[rows])
    return fit


def _pools_above(level: Tensor, left: Tensor, right: Tensor, totals: _Totals) -> Tensor:
    """Whether all that violates `level`, values of the left fit, shape (p, c), has a pooled value above it.

    If so, entries of the left half at this level lie below the pooled block and stay out of it. Both ends are
    taken at block boundaries, where totals of the data are totals of the fit.
    """
    start = torch.searchsorted(left, level)
    end = torch.searchsorted(right, level, right=True)
    return totals.value(start, end) > level


def _stays_above(level: Tensor, start: Tensor, right: Tensor, totals: _Totals) -> Tensor:
    """Whether `level`, values of the right fit, exceeds what is pooled of the left half and of all below it."""
    end = torch.searchsorted(right, level)
    return level > totals.value(start.expand_as(end), end)


@dataclass(frozen=True)
class _Totals:
    """Totals of the ends of left halves and of the starts of right halves, shape (2, p, l + 1) each."""

    left: Tensor
    right: Tensor
    pooling: Pooling

    @classmethod
    def of(cls, data: Tensor, pooling: Pooling) -> _Totals:
        length = data.shape[-1] // 2
        left = pooling.running(data[..., :length].flip(-1)).flip(-1)
        right = pooling.running(data[..., length:])
        pad = torch.nn.functional.pad
        return cls(pad(left, (0, 1), value=pooling.empty), pad(right, (1, 0), value=pooling.empty), pooling)

    def value(self, start: Tensor, end: Tensor) -> Tensor:
        """Value of left[start:] and right[:end] pooled, for indices of shape (p, c)."""
        ends = self.left.gather(2, start.expand(2, *start.shape))
        starts = self.right.gather(2, end.expand(2, *end.shape))
        return self.pooling.value(self.pooling.combine(ends, starts))


def _first(rows: Tensor, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """For each sorted row, the first index at whose value `holds` is true (the row's length if none), shape (p, 1).

    `holds` is monotone. Short rows are asked everywhere at once, long ones by bisection: fewer calls, or less
    work.
    """
    length = rows.shape[1]
    if length <= _AT_ONCE:
        return length - holds(rows).sum(1, keepdim=True)
    low = torch.zeros(rows.shape[0], 1, dtype=torch.int64, device=rows.device)
    high = torch.full_like(low, length)
    for _ in range(length.bit_length()):
        middle = (low + high) // 2
        found = holds(rows.gather(1, middle.clamp(max=length - 1)))
        high = torch.where(found, middle, high)
        low = torch.where(found, low, (middle + 1).clamp(max=high))
    return high
