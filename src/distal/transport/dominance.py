"""How far one sample is from dominating another, at first and second order.

U dominates V at first order if `Q_U(t) >= Q_V(t)` at every level t, and at second order if the integrated
quantiles do, `int_0^t Q_U >= int_0^t Q_V`. The violation ratio is the share of the squared distance between
the two curves that lies on the wrong side.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from distal.transport._checks import as_statistics, check_number
from distal.transport.solver import Staircase, staircase

__all__ = ["Order", "check_order", "ratio_of_sorted", "share_below", "squared_sides", "violation_ratio"]

Order = Literal[1, 2]


def check_order(order: int) -> None:
    """Refuse any order of dominance but 1 and 2.

    Raises:
        ValueError: another order.
    """
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order must be 1 (quantiles) or 2 (integrated quantiles), got {order!r}")


def squared_sides(gap: Tensor, mass: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Squared distance on the wrong and on the right side, of a piecewise constant quantile gap.

    Order 1: `int (gap)_-^2` and `int (gap)_+^2`. Order 2: the same of `D(t) = int_0^t gap`, which is piecewise
    linear, integrated exactly, zero crossings included.

    Args:
        gap: quantile gap `Q_U - Q_V` on each cell, shape (..., k), nats.
        mass: width of each cell, shape (..., k), sums to 1.
        order: 1 or 2.

    Returns:
        Wrong side and right side, each of shape (...). Their sum is the squared distance, their ratio to it
        within [0, 1] whatever the rounding.
    """
    if order == 1:
        below, above = gap.clamp(max=0).square(), gap.clamp(min=0).square()
    else:
        after = (mass * gap).cumsum(-1)
        before = after - mass * gap
        below, above = _mean_square_below(before, after), _mean_square_below(-before, -after)
    return (mass * below).sum(-1), (mass * above).sum(-1)


def share_below(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the straight line from `before` to `after` is below 0: its share of the way, and the values at both ends.

    Examples:
        >>> share_below(torch.tensor(-1.0), torch.tensor(3.0))
        (tensor(0.2500), tensor(-1.), tensor(0.))
    """
    low, high = torch.minimum(before, after).clamp(max=0), torch.maximum(before, after)
    crosses = (low < 0) & (high > 0)
    share = torch.where(crosses, -low / (high - low).clamp_min(torch.finfo(low.dtype).tiny), 1.0)
    return share, low, high.clamp(max=0)


def _mean_square_below(before: Tensor, after: Tensor) -> Tensor:
    """Mean of `(x)_-^2` along the straight line from `before` to `after`, exactly."""
    share, low, end = share_below(before, after)
    return share * (low.square() + low * end + end.square()) / 3


def ratio_of_sorted(u: Tensor, v: Tensor, cells: Staircase, order: int) -> Tensor:
    """Violation ratio of sorted samples; NaN where the two laws coincide.

    Args:
        u: sorted samples, shape (..., n).
        v: sorted samples, shape (..., m).
        cells: one staircase for all of them, or one for each if u and v are single samples.
        order: 1 or 2.
    """
    gap = u.double()[..., cells.u_rank] - v.double()[..., cells.v_rank]
    wrong, right = squared_sides(gap, cells.mass, order)
    distance = wrong + right
    return torch.where(distance > 0, wrong / distance, torch.nan)


def violation_ratio(u: object, v: object, order: Order = 1, *, tolerance: float = 0.0) -> float:
    """Violation ratio `int (Q_V - Q_U)_+^2 dt / int (Q_V - Q_U)^2 dt`, in [0, 1].

    0 exactly if u dominates v, 1 exactly if v dominates u, and `ratio(u, v) + ratio(v, u) = 1`. At order 2
    the quantile functions are replaced by their integrals from 0 to t, integrated in closed form. These are sums of
    gaps, and sums round: where two curves touch, 0 and 1 hold up to rounding.

    Args:
        u: sample that should dominate, shape (n,); tensor, array or list.
        v: sample to be dominated, shape (m,); m may differ from n.
        order: 1 or 2.
        tolerance: laws no farther apart than this (root of the denominator: W_2 in nats at order 1) count as
            coinciding. Set it to the rounding error of the scores.

    Returns:
        The ratio; NaN, undefined, where the two laws coincide (before the first step, say).

    Raises:
        ValueError: another order, a negative tolerance, or an empty, non-finite or non-1-D sample.
        TypeError: a sample that is not made of real numbers, or a tolerance that is not one.

    Source:
        arXiv 2310.07132 (first and second order); arXiv 2406.05882 uses the first as its diagnostic.

    Examples:
        >>> violation_ratio([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
        0.0
        >>> violation_ratio([0.0, 3.0], [1.0, 2.0]), violation_ratio([1.0, 2.0], [0.0, 3.0], order=2)
        (0.5, 0.0)
        >>> violation_ratio([1.0], [1.0])
        nan
    """
    check_order(order)
    check_number(tolerance, "tolerance", meaning="nats")
    if tolerance < 0:
        raise ValueError(f"tolerance must be a non-negative number of nats, got {tolerance}")
    one, two, scale = as_statistics(u, v)
    u_sorted, v_sorted = one.sort().values, two.sort().values
    cells = staircase(u_sorted.numel(), v_sorted.numel(), u_sorted.device)
    gap = u_sorted[cells.u_rank] - v_sorted[cells.v_rank]
    wrong, right = (float(side) for side in squared_sides(gap, cells.mass, order))
    if scale * math.sqrt(wrong + right) <= tolerance:
        return math.nan
    return wrong / (wrong + right)
