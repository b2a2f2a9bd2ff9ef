"""One-dimensional optimal transport for a convex cost of the gap, by merging two quantile grids.

For convex `h` the optimal coupling of two laws on the line is the monotone one (Theorem 1 of arXiv
2406.05882, after Santambrogio), so `OT_h(U, V) = int h(Q_U(t) - Q_V(t)) dt`. For empirical laws the integrand
is constant between the breakpoints `i/n` and `j/m`: a staircase of `n + m - 1` cells through the table of
pairs. Everything in this package (cost, plan, potentials, violation ratios) is a function of that staircase.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distal.transport._checks import check_pair, scale_weights
from distal.transport.costs import Cost, apply_cost

__all__ = ["Staircase", "TransportPlan", "merge_grids", "staircase", "transport_cost", "transport_plan"]


class Staircase(NamedTuple):
    """The monotone path through the table of sorted samples.

    Attributes:
        u_rank: rank of the u sample in each cell, from 0, non-decreasing, shape (n + m - 1,).
        v_rank: rank of the v sample in each cell, likewise.
        mass: mass of each cell, float64, sums to 1; zero where two breakpoints coincide.
    """

    u_rank: Tensor
    v_rank: Tensor
    mass: Tensor


class TransportPlan(NamedTuple):
    """An optimal coupling as a list of cells with positive mass.

    Attributes:
        u_index: position in u, shape (k,), `k <= n + m - 1`.
        v_index: position in v, shape (k,).
        mass: mass moved between them, float64, shape (k,), sums to 1.
    """

    u_index: Tensor
    v_index: Tensor
    mass: Tensor


def merge_grids(u_breaks: Tensor, v_breaks: Tensor, total: Tensor) -> Staircase:
    """Merge two increasing grids of inner breakpoints on (0, total) into a staircase.

    Every inner breakpoint of u moves one u sample on, every one of v one v sample, in increasing order; the
    mass of a cell is the distance between the two breakpoints that bound it.

    Args:
        u_breaks: inner breakpoints of u, non-decreasing, shape (..., n - 1), integer or float64.
        v_breaks: inner breakpoints of v, likewise, shape (..., m - 1).
        total: the last breakpoint of both grids, 0-d, of the same dtype.

    Returns:
        The staircase of `n + m - 1` cells, or one for each leading index.
    """
    merged, order = torch.sort(torch.cat([u_breaks, v_breaks], -1), dim=-1, stable=True)
    u_moves = order < u_breaks.shape[-1]
    pad = torch.nn.functional.pad
    u_rank, v_rank = pad(u_moves.cumsum(-1), (1, 0)), pad((~u_moves).cumsum(-1), (1, 0))
    edges = torch.cat([pad(merged, (1, 0)), total.expand(*merged.shape[:-1], 1)], -1)
    return Staircase(u_rank, v_rank, edges.diff(dim=-1).double() / total)


def staircase(n: int, m: int, device: torch.device) -> Staircase:
    """Staircase of two unweighted samples; integer breakpoints `i m` and `j n`, so no rounding."""
    u_breaks = torch.arange(1, n, device=device) * m
    v_breaks = torch.arange(1, m, device=device) * n
    return merge_grids(u_breaks, v_breaks, torch.tensor(n * m, device=device))


def _weighted_breaks(weights: Tensor | None, order: Tensor, sample: Tensor, name: str) -> Tensor:
    """Cumulative weights in sorted order, float64, ending in exactly 1."""
    if weights is None:
        n = sample.numel()
        return torch.arange(1, n + 1, dtype=torch.float64, device=sample.device) / n
    cumulative = scale_weights(weights, sample, name)[order].cumsum(0)
    return cumulative / cumulative[-1]


class SortedProblem(NamedTuple):
    """Two sorted samples, the permutations that sort them, and their staircase (None: n = m, unweighted)."""

    u: Tensor
    v: Tensor
    u_order: Tensor
    v_order: Tensor
    cells: Staircase | None


def sort_problem(
    u: Tensor, v: Tensor, u_weights: Tensor | None, v_weights: Tensor | None, *, equal_grids: bool = True
) -> SortedProblem:
    """Check and sort both samples and merge their grids; without `equal_grids` even if n = m."""
    u, v = check_pair(u, v)
    u_sorted, u_order = torch.sort(u, stable=True)
    v_sorted, v_order = torch.sort(v, stable=True)
    if u_weights is None and v_weights is None:
        same = equal_grids and u.numel() == v.numel()
        cells = None if same else staircase(u.numel(), v.numel(), u.device)
    else:
        u_breaks = _weighted_breaks(u_weights, u_order, u, "u_weights")
        v_breaks = _weighted_breaks(v_weights, v_order, v, "v_weights")
        cells = merge_grids(u_breaks[:-1], v_breaks[:-1], u_breaks[-1])
    return SortedProblem(u_sorted, v_sorted, u_order, v_order, cells)


def cost_on_cells(u_sorted: Tensor, v_sorted: Tensor, cost: Cost, cells: Staircase | None) -> Tensor:
    """Transport cost of sorted samples on a staircase, or on the common grid when `cells` is None."""
    if cells is None:
        return apply_cost(cost, u_sorted - v_sorted).mean()
    gap = u_sorted[cells.u_rank] - v_sorted[cells.v_rank]
    return (cells.mass.to(gap.dtype) * apply_cost(cost, gap)).sum()


def transport_cost(
    u: Tensor, v: Tensor, cost: Cost, *, u_weights: Tensor | None = None, v_weights: Tensor | None = None
) -> Tensor:
    """Optimal transport cost `OT_h(U, V) = min over couplings of E h(U - V)` between two empirical laws.

    For n = m without weights this is `(1/n) sum_i h(u_(i) - v_(i))`. Otherwise it is the sum over the cells
    of the merged quantile grids of mass times cost, exact for any counts; unweighted breakpoints are
    integers. O((n + m) log(n + m)) time and linear memory. The value is the cost itself, not its root: with
    `h(x) = x^2` it is W_2^2.

    The gradient holds the permutation fixed: for each sample, the sum over its cells of mass times `h'`.

    Args:
        u: sample that should dominate, shape (n,), nats.
        v: sample to be dominated, shape (m,), nats.
        cost: convex cost `h` of the gap `u - v`; a `LogisticCost` or any convex elementwise callable.
        u_weights: non-negative weights of u, shape (n,), normalised here; equal weights if None.
        v_weights: the same for v, shape (m,).

    Returns:
        Scalar tensor, differentiable in `u` and `v`; float32 for half-precision input.

    Raises:
        ValueError: an empty, non-finite or non-1-D sample, bad weights, or different devices.
        TypeError: a sample that is not a floating tensor, or a cost that is not callable.

    Source:
        arXiv 2406.05882, Theorem 1 and eqs (7), (10), (11) for n = m; appendix C for unequal counts.

    Examples:
        >>> import torch
        >>> from distal.transport import HingeCost
        >>> transport_cost(torch.tensor([0.0, 2.0]), torch.tensor([3.0, 1.0]), HingeCost()).item()
        1.0
        >>> transport_cost(torch.tensor([0.0]), torch.tensor([1.0, 2.0, 3.0]), HingeCost()).item()
        2.0
    """
    problem = sort_problem(u, v, u_weights, v_weights)
    return cost_on_cells(problem.u, problem.v, cost, problem.cells)


def transport_plan(
    u: Tensor, v: Tensor, *, u_weights: Tensor | None = None, v_weights: Tensor | None = None
) -> TransportPlan:
    """The monotone coupling, optimal at once for every convex cost of the gap.

    Args:
        u: sample, shape (n,).
        v: sample, shape (m,).
        u_weights: non-negative weights of u, shape (n,), normalised here; equal weights if None.
        v_weights: the same for v, shape (m,).

    Returns:
        The cells of positive mass, in increasing order of quantile level; at most `n + m - 1` of them.

    Raises:
        ValueError: an empty, non-finite or non-1-D sample, bad weights, or different devices.
        TypeError: a sample that is not a floating tensor.

    Source:
        arXiv 2406.05882, Theorem 1.

    Examples:
        >>> import torch
        >>> plan = transport_plan(torch.tensor([5.0, 1.0]), torch.tensor([2.0]))
        >>> plan.u_index.tolist(), plan.v_index.tolist(), plan.mass.tolist()
        ([1, 0], [0, 0], [0.5, 0.5])
    """
    with torch.no_grad():
        problem = sort_problem(u, v, u_weights, v_weights, equal_grids=False)
        assert problem.cells is not None
        keep = problem.cells.mass > 0
        return TransportPlan(
            problem.u_order[problem.cells.u_rank[keep]],
            problem.v_order[problem.cells.v_rank[keep]],
            problem.cells.mass[keep],
        )
