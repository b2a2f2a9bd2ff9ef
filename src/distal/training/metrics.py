"""Metrics of an optimizer batch or an evaluation set, from its scores alone.

Names follow TRL (`rewards/chosen`, `rewards/margins`, `logps/rejected`, ...); ours live under `dominance/`. Rewards
are log-ratios in nats and are *not* multiplied by beta, unlike TRL's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distal.objectives import Objective, SequenceScores
from distal.training.batch import ScoredBatch
from distal.transport import violation_ratio

__all__ = ["batch_metrics", "defined", "ranking_auc", "score_metrics", "undefined_metrics"]

_SOMETIMES_UNDEFINED = ("dominance/violation_ratio",)


def batch_metrics(batch: ScoredBatch, objective: Objective) -> dict[str, float]:
    """`score_metrics` of a batch, and what its objective adds."""
    scores = batch.sequence_scores()
    return {**score_metrics(scores), **defined(objective(scores).metrics)}


def score_metrics(scores: SequenceScores) -> dict[str, float]:
    """Means, accuracy and dominance of a set of scores.

    Args:
        scores: of a whole optimizer batch or evaluation set; paired or not.

    Returns:
        `rewards/chosen`, `rewards/rejected`, `rewards/margins` and `logps/*`: means in nats.
        `rewards/accuracies` (paired data only): share of pairs ranked right, ties counting half.
        `dominance/auc`: probability that a preferred response has the higher reward, ties counting half.
        `dominance/violation_ratio`: first order; left out while undefined (all rewards equal, as before the first
        step), because loggers have no value for that.
    """
    chosen, rejected = scores.reward_chosen.detach(), scores.reward_rejected.detach()
    metrics: dict[str, float | Tensor] = {
        "rewards/chosen": chosen.mean().item(),
        "rewards/rejected": rejected.mean().item(),
        "rewards/margins": (chosen.mean() - rejected.mean()).item(),
        "logps/chosen": scores.policy_chosen.detach().mean().item(),
        "logps/rejected": scores.policy_rejected.detach().mean().item(),
        "dominance/auc": ranking_auc(chosen, rejected),
        "dominance/violation_ratio": violation_ratio(chosen, rejected),
    }
    if scores.paired:
        metrics["rewards/accuracies"] = _half_ties(chosen - rejected).mean().item()
    return defined(metrics)


def undefined_metrics(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Metrics of dominance that a batch has no value of, as before the first step.

    Examples:
        >>> undefined_metrics({"dominance/auc": 0.5})
        ('dominance/violation_ratio',)
    """
    return tuple(name for name in _SOMETIMES_UNDEFINED if name not in metrics)


def defined(metrics: Mapping[str, float | Tensor]) -> dict[str, float]:
    """The metrics that have a value, as numbers; undefined ones (NaN) are left out."""
    numbers = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def ranking_auc(preferred: Tensor, other: Tensor) -> float:
    """P(preferred > other) + P(preferred = other) / 2 over all cross pairs, in O((n + m) log m).

    Args:
        preferred: (n,) rewards, nats.
        other: (m,) rewards, nats.

    Examples:
        >>> ranking_auc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0]))
        0.625
    """
    ordered = other.sort().values
    below = torch.searchsorted(ordered, preferred.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, preferred.contiguous(), right=True)
    return ((below + up_to).double().mean() / (2 * other.shape[0])).item()


def _half_ties(differences: Tensor) -> Tensor:
    return (differences > 0).double() + 0.5 * (differences == 0).double()
