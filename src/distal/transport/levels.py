"""Weights over quantile levels, and costs of integrated quantile gaps: functionals of the same staircase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distal.transport._checks import check_number
from distal.transport.costs import Cost, apply_cost
from distal.transport.solver import Staircase

__all__ = ["Distortion", "QuantileBand", "integrated_cost_on_cells", "reweight_levels"]

Distortion = Callable[[Tensor], Tensor]
"""Cumulative weight W of the levels, elementwise: non-decreasing from W(0) = 0 to W(1) = 1."""


@dataclass(frozen=True)
class QuantileBand:
    """Cumulative weight of a band of levels: all weight evenly between `low` and `high`.

    `QuantileBand(0, 0.1)` is the worst tenth (the weight of conditional value at risk), `QuantileBand(0, 1)`
    no change.

    Args:
        low: lower end, a level in [0, 1].
        high: upper end, above `low`.

    Raises:
        ValueError: not `0 <= low < high <= 1`.
        TypeError: an end that is not a number.

    Examples:
        >>> QuantileBand(0.0, 0.5)(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist()
        [0.0, 0.5, 1.0, 1.0]
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the ends."""
        check_number(self.low, "low", meaning="a level")
        check_number(self.high, "high", meaning="a level")
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(f"a band of levels needs 0 <= low < high <= 1, got ({self.low}, {self.high})")

    def __call__(self, levels: Tensor) -> Tensor:
        """Cumulative weight at each level."""
        return ((levels - self.low) / (self.high - self.low)).clamp(0.0, 1.0)


def reweight_levels(cells: Staircase, distortion: Distortion) -> Staircase:
    """Give each cell the weight of its levels: `W(t_k) - W(t_(k-1))` in place of `t_k - t_(k-1)`.

    Raises:
        ValueError: the distortion is not a cumulative weight.
    """
    edges = torch.nn.functional.pad(cells.mass.cumsum(0), (1, 0))
    # The last edge is 1 up to rounding; W must be asked at 1 itself.
    edges = (edges / edges[-1]).clamp(max=1.0)
    reached = distortion(edges)
    mass = reached.diff()
    if bool((mass < 0).any()) or abs(float(reached[0])) > 1e-9 or abs(float(reached[-1]) - 1.0) > 1e-9:
        raise ValueError(
            "quantile weighting must be a cumulative weight, non-decreasing from 0 at level 0 to 1 at level 1, "
            f"got {float(reached[0])} at level 0, {float(reached[-1])} at level 1, smallest step {float(mass.min())}"
        )
    return cells._replace(mass=mass)


_PANELS = 256
"""Panels of Simpson's rule over the levels [0, 1], at least."""


def integrated_cost_on_cells(u_sorted: Tensor, v_sorted: Tensor, cost: Cost, cells: Staircase) -> Tensor:
    """Second-order cost `int_0^1 h(D(t)) dt` with `D(t) = int_0^t (Q_U - Q_V)`, by Simpson's rule.

    D is a straight line on each cell. A cell wider than 1/256 is cut into panels that are not: the cost is curved on
    long lines, and the cost of a law must not depend on how many copies of each sample stand for it. The rule is exact
    for costs up to third degree, and its nodes include every kink of D, where a violation of second-order dominance is
    largest: a hinge that vanishes on all nodes vanishes everywhere.
    """
    mass = cells.mass.to(u_sorted.dtype)
    steps = mass * (u_sorted[cells.u_rank] - v_sorted[cells.v_rank])
    after = steps.cumsum(0)
    before = after - steps
    panels = (cells.mass * _PANELS).ceil().long().clamp(min=1)
    if bool((panels > 1).any()):
        cell = torch.repeat_interleave(panels)
        place = torch.arange(cell.numel(), device=cell.device) - (panels.cumsum(0) - panels)[cell]
        low, high = (k.to(mass.dtype) / panels[cell] for k in (place, place + 1))
        # lerp answers with the ends of a cell themselves at 0 and 1.
        start, end = before[cell], after[cell]
        before, after = start.lerp(end, low), start.lerp(end, high)
        mass = (mass / panels)[cell]
    nodes = torch.stack([before, (before + after) / 2, after])
    simpson = torch.tensor([1.0, 4.0, 1.0], dtype=mass.dtype, device=mass.device) / 6
    return (mass * (simpson @ apply_cost(cost, nodes))).sum()
