"""Isotonic regression by merging: which entries of a sequence are pooled into one block.

Pool-adjacent-violators walks the sequence entry by entry. Here the work is done by tensor operations, on any
device.

An entry below one that stands before it, or above one that stands after it, is in disorder; what lies between two
stretches in disorder is a block by itself. Usually such stretches are few and short (large gaps are in the tails),
and each is fitted by comparing all of its intervals. Otherwise neighbouring stretches of the whole sequence are
merged, all of one length at once, in O(n log n) whatever the data. When two fitted stretches meet, only the end of
the left one and the start of the right one can be pooled, and into a single block. Its left end is found by
bisection, its right end by another one; a stretch whose boundary is in order costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 64
"""Length up to which a row is asked at all of its entries at once."""
_INTERVALS = 1 << 16
"""Intervals that may be compared directly, which bounds the memory taken beyond that of the sample."""

_ROUNDING = 16 * torch.finfo(torch.float64).eps

__all__ = ["Blocks", "Pooling", "l2_pooling", "log_pooling", "pooled_blocks"]


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


class Blocks(NamedTuple):
    """Where a fit differs from the data, or may: k entries in order, each in one block.

    Attributes:
        entry: position of each entry in the sequence, increasing, shape (k,).
        block: index of its block, from 0, non-decreasing, int64, shape (k,).
    """

    entry: Tensor
    block: Tensor


def pooled_blocks(pooling: Pooling) -> Blocks | None:
    """Blocks of the non-decreasing fit.

    Args:
        pooling: data of n entries and the rule to pool them.

    Returns:
        The blocks, without some or all of the entries that are blocks by themselves; None if nothing is pooled.
    """
    values = pooling.value(pooling.data)
    after = values.flip(0).cummin(0).values.flip(0)
    disorder = values.cummax(0).values[:-1] > after[1:]
    # A change of the padded flags is the begin and the end (included) of a stretch, in turns.
    starts, ends = F.pad(disorder, (1, 1)).diff().nonzero().view(-1, 2).unbind(1)
    if starts.numel() == 0:
        return None
    longest = int((ends - starts).max()) + 1
    if starts.numel() * longest**2 <= _INTERVALS:
        index = starts[:, None] + torch.arange(longest, device=values.device)
        inside = index <= ends[:, None]
        data = pooling.data[:, index.clamp(max=values.numel() - 1)]
        fit = _fit_by_intervals(data, inside, pooling)
        # What differs by rounding alone is one block: taken apart, the halves of a log-sum-exp need not be in order.
        rises = fit.diff(dim=1) > _ROUNDING * data.abs().amax()
        # Each stretch begins a block of its own.
        return Blocks(index[inside], F.pad(rises, (1, 0), value=True)[inside].cumsum(0) - 1)
    fit = _fit_by_merging(values, pooling)
    block = F.pad(fit[1:] > fit[:-1], (1, 0)).cumsum(0)
    return Blocks(torch.arange(values.numel(), device=values.device), block)


def _fit_by_intervals(data: Tensor, inside: Tensor, pooling: Pooling) -> Tensor:
    """Fit each row of data, shape (2, p, l), as far as it is `inside`, shape (p, l).

    The fit of entry i is the least over k >= i of the greatest over j <= i of the pooled value of j .. k.
    """
    at = torch.arange(inside.shape[1], device=inside.device)
    upwards = at >= at[:, None]  # [j, k]: j <= k
    totals = pooling.running(torch.where(upwards, data[:, :, None, :], pooling.empty))
    # [i, k]: over j <= i. Where j > k the value is that of nothing, but such j come after every i <= k.
    greatest = pooling.value(totals).cummax(-2).values
    return torch.where(upwards & inside[:, None, :], greatest, torch.inf).amin(-1)


def _fit_by_merging(values: Tensor, pooling: Pooling) -> Tensor:
    """Fit the whole sequence."""
    n = values.numel()
    size = 1 << (n - 1).bit_length()
    data = F.pad(pooling.data, (0, size - n), value=pooling.empty)
    fit = F.pad(values, (0, size - n), value=torch.inf)
    length = 1
    while length < size:
        fit = _merge_neighbours(fit.view(-1, 2 * length), data.view(2, -1, 2 * length), pooling).view(-1)
        length *= 2
    return fit[:n]


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
        return cls(
            F.pad(left, (0, 1), value=pooling.empty), F.pad(right, (1, 0), value=pooling.empty), pooling
        )

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
