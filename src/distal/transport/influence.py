"""The two sides of a quantile gap as norms, and how much each sample moves them: standard errors without simulation.

At first order the squared norms are transport costs, with `h(x) = (x)_-^2` and `h(x) = (x)_+^2`, so their influence
functions are their dual potentials. At second order the chain rule through `D(t) = int_0^t (Q_U - Q_V)` gives a
potential whose slope at `Q_U(s)` is `int_s^1 h'(D(t)) dt`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from distal.transport.dominance import share_below, squared_sides
from distal.transport.solver import Staircase, staircase

__all__ = ["Side", "sides"]


class Side(NamedTuple):
    """How far two quantile curves are apart on one side, and how much each sample moves it.

    Attributes:
        norm: square root of the integral of the squared gap on this side, shape (...).
        on_u: centred influence of each u, shape (..., n): to first order the norm moves by their mean. Zero where
            the norm is zero.
        on_v: the same for each v, shape (..., m).
    """

    norm: Tensor
    on_u: Tensor
    on_v: Tensor


_Steps = tuple[Tensor, Tensor]
"""Increments of two potentials along the sorted samples, shapes (..., n - 1) and (..., m - 1)."""


def sides(u: Tensor, v: Tensor, order: int) -> tuple[Side, Side]:
    """The wrong side and the right side of two samples; leading dimensions hold independent problems.

    Args:
        u: samples that should dominate, float64, shape (..., n).
        v: samples to be dominated, float64, shape (..., m).
        order: 1 or 2.

    Source:
        Delta method on the two potentials. The central limit theorem behind it is that of del Barrio,
        Cuesta-Albertos, Matran 2018, as used by arXiv 2310.07132.
    """
    u_sorted, u_order = u.sort(-1)
    v_sorted, v_order = v.sort(-1)
    cells = staircase(u.shape[-1], v.shape[-1], u.device)
    gap = u_sorted[..., cells.u_rank] - v_sorted[..., cells.v_rank]
    if order == 1:
        steps = _first_order_steps(u_sorted, v_sorted)
    else:
        steps = _second_order_steps(u_sorted.diff(dim=-1), v_sorted.diff(dim=-1), gap, cells)
    norms = [squared.sqrt() for squared in squared_sides(gap, cells.mass, order)]
    # The norm is the root of the squared norm, whose potentials these are.
    slopes = [torch.where(norm > 0, 0.5 / norm, 0.0)[..., None] for norm in norms]
    wrong, right = (
        Side(norm, slope * _potential(on_u, u_order), slope * _potential(on_v, v_order))
        for norm, slope, (on_u, on_v) in zip(norms, slopes, steps, strict=True)
    )
    return wrong, right


def _potential(steps: Tensor, order: Tensor) -> Tensor:
    """Centred potential from its increments along the sorted sample, in the sample's own order."""
    ordered = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    ordered = ordered - ordered.mean(-1, keepdim=True)
    return torch.empty_like(ordered).scatter_(-1, order, ordered)


def _first_order_steps(u: Tensor, v: Tensor) -> tuple[_Steps, _Steps]:
    """Changes of the costs `(x)_-^2` and `(x)_+^2` along the staircase: increments of their dual potentials.

    Where breakpoints of both grids coincide the staircase may move on in u or in v first. Either gives optimal
    potentials; their mean treats both sides alike.
    """
    n, m = u.shape[-1], v.shape[-1]
    u_first, mirrored = staircase(n, m, u.device), staircase(m, n, u.device)
    v_first = Staircase(mirrored.v_rank, mirrored.u_rank, mirrored.mass)
    if math.gcd(n, m) == 1:
        return _steps_along(u, v, u_first)
    one, two = _steps_along(u, v, u_first), _steps_along(u, v, v_first)
    wrong, right = (((one[k][0] + two[k][0]) / 2, (one[k][1] + two[k][1]) / 2) for k in (0, 1))
    return wrong, right


def _steps_along(u: Tensor, v: Tensor, cells: Staircase) -> tuple[_Steps, _Steps]:
    gap = u[..., cells.u_rank] - v[..., cells.v_rank]
    u_moves = cells.u_rank.diff() > 0
    wrong, right = (x.square().diff(dim=-1) for x in (gap.clamp(max=0), gap.clamp(min=0)))
    return (wrong[..., u_moves], wrong[..., ~u_moves]), (right[..., u_moves], right[..., ~u_moves])


def _second_order_steps(
    u_gaps: Tensor, v_gaps: Tensor, gap: Tensor, cells: Staircase
) -> tuple[_Steps, _Steps]:
    """Slope `int_s^1 h'(D(t)) dt` of each potential times the gap between neighbours."""
    after = (cells.mass * gap).cumsum(-1)
    before = after - cells.mass * gap
    share, low, end = share_below(before, after)
    # The integral over a cell of 2 min(D, 0); that of 2 D is the sum of both ends times the mass.
    wrong = cells.mass * share * (low + end)
    right = cells.mass * (before + after) - wrong
    u_moves = cells.u_rank.diff() > 0

    def steps(pull: Tensor) -> _Steps:
        tail = pull.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return tail[..., u_moves] * u_gaps, -tail[..., ~u_moves] * v_gaps

    return steps(wrong), steps(right)
