"""Influence functions of violation and distance: how much each sample moves them, and from that standard errors.

The violation ratio is a ratio A / B of functionals of the two laws. Whether it lies below a threshold theta
is the sign of `A - theta B`, which unlike the ratio is close to normal in moderate samples. At first order
both are transport costs, with `h(x) = (x)_-^2` and `h(x) = x^2`, so their influence functions are their dual
potentials. At second order the chain rule through `D(t) = int_0^t (Q_U - Q_V)` gives a potential whose slope
at `Q_U(s)` is `int_s^1 h'(D(t)) dt`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distal.transport.dominance import violation_parts
from distal.transport.solver import Staircase, staircase

__all__ = ["Contrast", "contrast"]


@dataclass(frozen=True)
class Contrast:
    """The contrast `A - theta B` of violation A and squared distance B, and how much each sample moves it.

    Attributes:
        violation: A, shape (...).
        distance: B, shape (...).
        threshold: theta.
        on_u: centred influence of each u, shape (..., n): to first order the contrast moves by their mean.
        on_v: the same for each v, shape (..., m).
    """

    violation: Tensor
    distance: Tensor
    threshold: float
    on_u: Tensor
    on_v: Tensor

    @property
    def value(self) -> Tensor:
        """The contrast, negative where the violation ratio is below the threshold, shape (...)."""
        return self.violation - self.threshold * self.distance


def contrast(u: Tensor, v: Tensor, order: int, threshold: float) -> Contrast:
    """Contrast of two samples with its influence function; leading dimensions hold independent problems.

    Args:
        u: samples that should dominate, float64, shape (..., n).
        v: samples to be dominated, float64, shape (..., m).
        order: 1 or 2.
        threshold: theta.

    Source:
        Delta method on the two potentials; the central limit theorem for the ratio is that of del Barrio,
        Cuesta-Albertos, Matran 2018, as used by arXiv 2310.07132.
    """
    u_sorted, u_order = u.sort(-1)
    v_sorted, v_order = v.sort(-1)
    cells = staircase(u.shape[-1], v.shape[-1], u.device)
    gap = u_sorted[..., cells.u_rank] - v_sorted[..., cells.v_rank]
    violation, distance = violation_parts(gap, cells.mass, order)
    slopes = _first_order_steps if order == 1 else _second_order_steps
    u_steps, v_steps = slopes(u_sorted, v_sorted, gap, cells, threshold)
    return Contrast(
        violation, distance, threshold, _potential(u_steps, u_order), _potential(v_steps, v_order)
    )


def _potential(steps: Tensor, order: Tensor) -> Tensor:
    """Centred potential from its increments along the sorted sample, in the sample's own order."""
    ordered = torch.nn.functional.pad(steps.cumsum(-1), (1, 0))
    ordered = ordered - ordered.mean(-1, keepdim=True)
    return torch.empty_like(ordered).scatter_(-1, order, ordered)


def _first_order_steps(
    u: Tensor, v: Tensor, gap: Tensor, cells: Staircase, threshold: float
) -> tuple[Tensor, Tensor]:
    """Increments of the dual potentials for the cost `(x)_-^2 - theta x^2`: changes of cost along the staircase."""
    steps = (gap.clamp(max=0).square() - threshold * gap.square()).diff(dim=-1)
    u_moves = cells.u_rank.diff() > 0
    return steps[..., u_moves], steps[..., ~u_moves]


def _second_order_steps(
    u: Tensor, v: Tensor, gap: Tensor, cells: Staircase, threshold: float
) -> tuple[Tensor, Tensor]:
    """Increments of the potentials at second order: slope `int_s^1 h'(D(t)) dt` times the gap between neighbours."""
    after = (cells.mass * gap).cumsum(-1)
    before = after - cells.mass * gap
    # The integral of h'(D) over a cell, on which D is a straight line.
    pull = cells.mass * (2 * _mean_below(before, after) - threshold * (before + after))
    tail = pull.flip(-1).cumsum(-1).flip(-1)
    u_moves = cells.u_rank.diff() > 0
    return tail[..., 1:][..., u_moves] * u.diff(dim=-1), -tail[..., 1:][..., ~u_moves] * v.diff(dim=-1)


def _mean_below(before: Tensor, after: Tensor) -> Tensor:
    """Mean of `min(x, 0)` along the straight line from `before` to `after`."""
    low, high = torch.minimum(before, after).clamp(max=0), torch.maximum(before, after)
    crosses = (low < 0) & (high > 0)
    share = torch.where(crosses, -low / (high - low).clamp_min(torch.finfo(low.dtype).tiny), 1.0)
    return share * (low + high.clamp(max=0)) / 2
