"""AOT against known laws: the cost of single samples, where the batch objective sorts a whole batch.

The batch objective asks a batch twice: for the samples and for the order statistics that they are compared
with. Here the second answer comes from two laws given beforehand, so that each sample's cost and coefficient
depend on its own score alone. The derivation is in docs/concepts/streaming.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distal.objectives.aot import Aot, AotUnpaired
from distal.objectives.base import Objective
from distal.objectives.transport_options import build_distortion
from distal.transport.costs import apply_cost
from distal.transport.laws import WeightedLaw, partners

__all__ = ["RunningLaws", "check_streamable", "costs_of_preferred", "costs_of_other"]

Streamable = Aot | AotUnpaired


class RunningLaws(NamedTuple):
    """The laws that stand in for the sorted batch: u should dominate v."""

    u: WeightedLaw
    v: WeightedLaw


def check_streamable(objective: Objective) -> Streamable:
    """Return the objective if its order statistics can come from running laws.

    Raises:
        ValueError: it has none, or an option of its sort has no meaning without a sorted batch.
    """
    if not isinstance(objective, Aot | AotUnpaired):
        raise ValueError(
            f"objective {objective.name!r} cannot take its order statistics from running laws: {_WHY}"
        )
    if objective.sort != "hard":
        raise ValueError(
            "sort='soft' pools the samples of one sorted batch, and running laws have no such batch; use sort='hard'"
        )
    if objective.sort_group is not None:
        raise ValueError(
            f"sort_group={objective.sort_group} cuts the batch that is sorted, and with running laws no batch is "
            "sorted; leave it unset"
        )
    return objective


_WHY = (
    "only aot and aot_unpaired can. Second order compares integrated quantiles, where a sample enters all levels "
    "above its own; the other objectives do not sort"
)


def costs_of_preferred(
    objective: Streamable, u: Tensor, laws: RunningLaws, *, own_weight: float = 1.0
) -> Tensor:
    """Cost of each sample u against its partners: the mean of `h(u - Q_V(t))` over the levels t of u.

    Their mean estimates the transport cost, and the derivative of entry i, divided by n, is the coefficient of
    sample i.

    Args:
        objective: whose cost and weights of levels apply.
        u: samples that should dominate, shape (n,): rewards of preferred completions, or policy margins.
        laws: both laws; no gradient passes through them.
        own_weight: weight of the sample in its own law; see `distal.transport.laws.partners`.

    Returns:
        (n,) costs, differentiable in `u`.

    Source:
        arXiv 2406.05882, eq. (7), with the envelope theorem; see docs/concepts/streaming.md.

    Examples:
        >>> from distal.transport.laws import weighted_law
        >>> zero = weighted_law(torch.zeros(1))
        >>> costs = costs_of_preferred(AotUnpaired(), torch.zeros(3), RunningLaws(zero, zero))
        >>> [round(cost, 6) for cost in costs.tolist()]
        [0.693147, 0.693147, 0.693147]
    """
    return _costs(objective, u, laws.u, laws.v, 1.0, own_weight)


def costs_of_other(objective: Streamable, v: Tensor, laws: RunningLaws, *, own_weight: float = 1.0) -> Tensor:
    """Cost of each sample v against its partners: the mean of `h(Q_U(t) - v)` over the levels t of v.

    Args:
        objective: whose cost and weights of levels apply.
        v: samples to be dominated, shape (m,): rewards of other completions.
        laws: both laws; no gradient passes through them.
        own_weight: weight of the sample in its own law.

    Returns:
        (m,) costs, differentiable in `v`.
    """
    return _costs(objective, v, laws.v, laws.u, -1.0, own_weight)


def _costs(
    objective: Streamable, x: Tensor, own: WeightedLaw, other: WeightedLaw, sign: float, own_weight: float
) -> Tensor:
    """Mean cost of `sign * (x - partner)` for each sample."""
    distortion = build_distortion(objective.quantile_weighting)
    if x.numel() == 0:  # a micro-batch may hold samples of one side only
        return x.double()
    found = partners(x, own, other, own_weight=own_weight, distortion=distortion)
    x = x.double()
    cost = apply_cost(objective.gap_cost(), sign * (x[found.sample] - found.value))
    return torch.zeros_like(x).index_add(0, found.sample, found.share * cost)
