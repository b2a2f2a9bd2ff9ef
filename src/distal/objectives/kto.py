"""Kahneman-Tversky optimisation: each sample against a baseline of the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distal.objectives.base import DataKind, Objective, option
from distal.objectives.scores import ObjectiveOutput, SequenceScores
from distal.transport._checks import check_positive, check_weights
from distal.transport._names import check_choice

__all__ = ["Kto"]

_BASELINES = ("batch", "mismatched", "none")


@dataclass(frozen=True, kw_only=True)
class Kto(Objective):
    """Kahneman-Tversky optimisation (KTO) on unpaired samples.

    With reward `r` and baseline `z`, the loss is the mean over the optimizer batch of
    `w_D (1 - sigma(beta (r - z)))` over desirable and `w_U (1 - sigma(beta (z - r)))` over undesirable
    samples. The baseline stands for the divergence of policy from reference and takes no part in the
    gradient:

    - `mismatched`, the paper's estimator: `max(0, mean of rewards)` of completions scored under prompts that
      they do not answer. It costs a second forward pass over the batch; pass the rewards as
      `mismatched_rewards`.
    - `batch`, ours: `max(0, mean reward)` of the optimizer batch itself, which costs nothing. It is the
      log-ratio averaged over the data's completions in place of mismatched ones, hence larger in size on the
      data being trained on, and it is taken over the whole optimizer batch: a baseline of one micro-batch
      would make the loss depend on how the batch is cut.
    - `none`: zero.

    Source:
        arXiv 2402.01306, eq. (7) and section 4.

    Examples:
        >>> scores = SequenceScores(torch.zeros(2), torch.zeros(3), torch.zeros(2), torch.zeros(3))
        >>> Kto()(scores).loss.item()
        0.5
    """

    beta: float = option(0.1, "slope of the loss in the reward, 1/nats")
    desirable_weight: float = option(1.0, "weight of desirable samples")
    undesirable_weight: float = option(1.0, "weight of undesirable samples")
    kl_baseline: str = option("batch", "what rewards are measured from: 'batch', 'mismatched' or 'none'")

    name: ClassVar[str] = "kto"
    data: ClassVar[DataKind] = "unpaired"
    default_beta: ClassVar[float | None] = 0.1
    source: ClassVar[str] = "arXiv 2402.01306, eq. (7)"
    beta_source: ClassVar[str | None] = "its experiments; TRL's default too"
    uses_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive(self.beta, "beta", meaning="the slope of the loss in the reward, 1/nats")
        check_positive(self.desirable_weight, "desirable_weight", meaning="the weight of desirable samples")
        check_positive(
            self.undesirable_weight, "undesirable_weight", meaning="the weight of undesirable samples"
        )
        check_choice(self.kl_baseline, "kl_baseline", _BASELINES)

    @property
    def couples_batch(self) -> bool:
        """True: the baseline, and the share of each label, are those of the whole batch."""
        return True

    def loss(self, scores: SequenceScores) -> ObjectiveOutput:
        """Mean loss of all samples."""
        chosen, rejected = scores.reward_chosen, scores.reward_rejected
        weights = _weights(scores, chosen.dtype)
        baseline = self._baseline(scores, torch.cat([chosen, rejected]).detach(), weights)
        losses = torch.cat(
            [
                self.desirable_weight * torch.sigmoid(self.beta * (baseline - chosen)),
                self.undesirable_weight * torch.sigmoid(self.beta * (rejected - baseline)),
            ]
        )
        return ObjectiveOutput((weights * losses).sum(), {"kl_baseline": baseline})

    def _baseline(self, scores: SequenceScores, rewards: Tensor, weights: Tensor) -> Tensor:
        """Baseline of the rewards, 0-d, nats, at least 0."""
        if self.kl_baseline == "none":
            return torch.zeros((), dtype=rewards.dtype, device=rewards.device)
        if self.kl_baseline == "batch":
            return (weights * rewards).sum().clamp(min=0)
        if scores.mismatched_rewards is None:
            raise ValueError(
                "kl_baseline='mismatched' needs SequenceScores.mismatched_rewards, got none; score completions under "
                "other prompts and pass their rewards as mismatched_rewards, or use kl_baseline='batch'"
            )
        return scores.mismatched_rewards.detach().to(rewards.dtype).mean().clamp(min=0)


def _weights(scores: SequenceScores, dtype: torch.dtype) -> Tensor:
    """Weights of all samples, preferred ones first, that sum to 1."""
    both = torch.cat([scores.policy_chosen, scores.policy_rejected])
    if scores.chosen_weights is None or scores.rejected_weights is None:
        return torch.full(both.shape, 1 / both.numel(), dtype=dtype, device=both.device)
    weights = torch.cat([scores.chosen_weights, scores.rejected_weights])
    return check_weights(weights, both, "weights").to(dtype)
