"""How much of the loss is an artefact of the size of the sort group, estimated from the batch itself.

A transport cost is jointly convex in the two laws, so that of a sample is too large on average:
`E OT_b = OT + bias(b)` with `bias(b) >= 0`, close to `c/b` (docs/concepts/theory.md). The c is not known, but the same
samples in two halves tell it:

    E OT_{b/2} - E OT_b  =  bias(b/2) - bias(b)  ~  2c/b - c/b  =  bias(b)

So the mean cost of two random halves of the batch, less the cost of the whole, is an estimate of the bias of the whole.
By convexity it is never negative at first order. Where the bias is `c/(b + 1)`, as for uniform laws that coincide under
a squared hinge, its mean is `b/(b + 2)` of the bias: on the small side, by a fifth at b = 8.

For sort groups of g < b samples the whole batch shows most of the bias directly:
`bias(g) = (E OT_g - E OT_b) + bias(b)`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from distal.objectives import Objective, SequenceScores
from distal.objectives.aot import TransportObjective
from distal.objectives.mix import Mix

__all__ = ["GroupBias", "sort_group_bias"]


@dataclass(frozen=True, slots=True)
class GroupBias:
    """What sorting in groups adds to the loss of one optimizer batch.

    Attributes:
        size: samples of the smaller side in a sort group.
        cost: transport cost of the batch, averaged over its sort groups.
        bias: estimate of how much too large that is on average; None for a batch of one sample, which has no halves.
    """

    size: int
    cost: float
    bias: float | None


def sort_group_bias(objective: Objective, scores: SequenceScores) -> GroupBias | None:
    """Estimate the bias of an objective's sort groups from one optimizer batch.

    Noisy from step to step: average over steps before you judge.

    Args:
        objective: as it is trained with.
        scores: of the whole optimizer batch.

    Returns:
        None for objectives that sort nothing.

    Examples:
        >>> from distal.objectives import get_objective
        >>> u, v = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 3.0])
        >>> scores = SequenceScores(u, v, torch.zeros(2), torch.zeros(2))
        >>> sort_group_bias(get_objective("aot_unpaired", cost="squared_hinge", margin=0.0), scores)
        GroupBias(size=2, cost=0.5, bias=...)
    """
    if isinstance(objective, Mix):
        found = [(weight, sort_group_bias(term, scores)) for weight, term in objective.terms]
        parts = [(weight, part) for weight, part in found if part is not None]
        if not parts:
            return None
        biases = [None if part.bias is None else weight * part.bias for weight, part in parts]
        known = [bias for bias in biases if bias is not None]
        return GroupBias(
            size=min(part.size for _, part in parts),
            cost=sum(weight * part.cost for weight, part in parts),
            bias=sum(known) if len(known) == len(biases) else None,
        )
    if not isinstance(objective, TransportObjective):
        return None
    n = min(scores.policy_chosen.numel(), scores.policy_rejected.numel())
    size = min(objective.sort_group or n, n)
    cost = _cost(objective, scores, size)
    if n == 1:
        return GroupBias(size, cost, None)
    whole = cost if size == n else _cost(objective, scores, n)
    halves = _cost(objective, scores, -(-n // 2))
    return GroupBias(size, cost, (cost - whole) + (halves - whole))


@torch.no_grad()
def _cost(objective: TransportObjective, scores: SequenceScores, size: int) -> float:
    """Mean cost of the batch in sort groups of at most `size` samples of the smaller side."""
    return dataclasses.replace(objective, sort_group=size)(scores).loss.item()
