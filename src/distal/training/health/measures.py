"""What is measured of every step, from numbers that it computed anyway: no forward pass, nothing on the device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distal.objectives import Objective
from distal.training.batch import ScoredBatch, without_rounding
from distal.training.engine import StepOutput
from distal.training.health.bias import sort_group_bias

__all__ = [
    "Measures",
    "effective_number",
    "falling_pairs",
    "length_correlation",
    "measure",
    "surprise_ratio",
    "theil_sen",
]

Measures = dict[str, float | int | list[int] | None]
"""The measures of one step by name; None where one is undefined."""

_HEAVIEST = 3


def measure(output: StepOutput, objective: Objective, dtype: torch.dtype) -> Measures:
    """The measures of one step.

    Args:
        output: of the engine.
        objective: that the step minimised.
        dtype: in which scores were computed; rewards below its rounding count as 0.

    Returns:
        reward_chosen, reward_rejected: mean rewards, nats.
        effective_share: `effective_number` of the coefficients over the number of samples.
        heaviest_rows: source rows of the largest coefficients.
        sort_group, group_cost, group_bias: as in `GroupBias`; absent for objectives that sort nothing.
        surprise_ratio: as in the function of that name.
        length_correlation: as in the function of that name.
    """
    batch = without_rounding(output.batch, dtype)
    # Differences of nearly equal costs are taken below: rounding should not be what is left of them.
    batch = dataclasses.replace(batch, policy=batch.policy.double(), reference=batch.reference.double())
    rewards = batch.policy - batch.reference
    weight = output.coefficients.abs()
    heaviest = batch.source_row[weight.argsort(descending=True, stable=True)].tolist()
    measures: Measures = {
        "reward_chosen": rewards[batch.desirable].mean().item(),
        "reward_rejected": rewards[~batch.desirable].mean().item(),
        "effective_share": effective_number(weight) / weight.numel(),
        "heaviest_rows": list(dict.fromkeys(heaviest))[:_HEAVIEST],
        "surprise_ratio": surprise_ratio(batch),
        "length_correlation": length_correlation(batch),
    }
    group = sort_group_bias(objective, batch.sequence_scores())
    if group is not None:
        measures |= {"sort_group": group.size, "group_cost": group.cost, "group_bias": group.bias}
    return {name: _finite(value) for name, value in measures.items()}


def effective_number(coefficients: Tensor) -> float:
    """How many samples, equally weighted, would carry as much: `(sum |c|)^2 / sum c^2`; 0 if all are 0.

    Args:
        coefficients: (n,) derivatives of the loss by the scores.

    Examples:
        >>> effective_number(torch.tensor([2.0, -2.0, 0.0, 0.0]))
        2.0
    """
    weight = coefficients.detach().double().abs()
    squares = weight.square().sum().item()
    return weight.sum().item() ** 2 / squares if squares > 0 else 0.0


def surprise_ratio(batch: ScoredBatch) -> float | None:
    """Nats per token that preferred completions cost under the policy, over the same under the reference.

    Both are means over the same tokens, so that the ratio is that of the summed scores. A stand-in for the entropy
    of the policy, which needs the whole vocabulary: it falls when the policy becomes certain of the preferred texts,
    and cannot see a policy that becomes certain of others.

    Returns:
        1 where the policy is the reference; None where the reference is not surprised at all.
    """
    reference = batch.reference[batch.desirable].double().sum().item()
    return batch.policy[batch.desirable].double().sum().item() / reference if reference < 0 else None


def length_correlation(batch: ScoredBatch) -> float | None:
    """Rank correlation (Spearman) of reward and completion length within each class, averaged by class size.

    Within the classes, because preferred responses may be longer than others in the data itself. None where it is
    undefined: all lengths or all rewards of a class are equal, as before the first step.
    """
    rewards, lengths = (batch.policy - batch.reference).double(), batch.completion_length.double()
    total, weight = 0.0, 0
    for members in (batch.desirable, ~batch.desirable):
        correlation = _correlation(_ranks(rewards[members]), _ranks(lengths[members]))
        if correlation is not None:
            count = int(members.sum())
            total, weight = total + count * correlation, weight + count
    return total / weight if weight else None


def theil_sen(values: Sequence[float]) -> float:
    """Median of the slopes between all pairs of points, per step; a few wild points do not move it.

    Examples:
        >>> theil_sen([0.0, 1.0, 2.0, 90.0, 4.0])
        1.0
    """
    return torch.tensor(_slopes(values), dtype=torch.float64).quantile(0.5).item()


def falling_pairs(values: Sequence[float]) -> float:
    """Share of the pairs of points of which the later is lower; 0.5 for a series that goes nowhere.

    Examples:
        >>> falling_pairs([3.0, 2.0, 2.5])
        0.6666666666666666
    """
    slopes = _slopes(values)
    return sum(slope < 0 for slope in slopes) / len(slopes)


def _slopes(values: Sequence[float]) -> list[float]:
    return [(values[j] - values[i]) / (j - i) for j in range(len(values)) for i in range(j)]


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[inverse]


def _correlation(x: Tensor, y: Tensor) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    scale = (x.square().sum() * y.square().sum()).sqrt().item()
    return (x * y).sum().item() / scale if scale > 0 else None


def _finite(value: float | int | list[int] | None) -> float | int | list[int] | None:
    return value if not isinstance(value, float) or math.isfinite(value) else None
