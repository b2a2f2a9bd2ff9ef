"""The language-model term: raise the likelihood of preferred completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distal.objectives.base import DataKind, Objective, option
from distal.objectives.scores import ObjectiveOutput, SequenceScores
from distal.transport._checks import check_flag, check_weights

__all__ = ["Sft"]


@dataclass(frozen=True, kw_only=True)
class Sft(Objective):
    """Negative log-likelihood of preferred completions, as a term of `mix`.

    Per completion, `- mean(log pi(y+|x))`, nats; per token, `- sum(log pi(y+|x)) / sum(tokens)`, which is the
    loss of supervised fine-tuning and needs `chosen_lengths`. Rejected completions and the reference play no
    part.

    Source:
        The term that arXiv 2404.19733 and 2411.10442 add to a preference loss.

    Examples:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> Sft()(SequenceScores.from_pairs(torch.tensor([-3.0, -5.0]), zero, zero, zero)).loss.item()
        4.0
    """

    per_token: bool = option(False, "divide by tokens instead of by completions")

    def __post_init__(self) -> None:
        """Check the options."""
        check_flag(self.per_token, "per_token")

    name: ClassVar[str] = "sft"
    data: ClassVar[DataKind] = "unpaired"
    default_beta: ClassVar[float | None] = None
    source: ClassVar[str] = "language-model term as in arXiv 2404.19733 and 2411.10442"
    uses_weights: ClassVar[bool] = True

    @property
    def couples_batch(self) -> bool:
        """True: the mean is over preferred completions, whose number differs from one micro-batch to the next."""
        return True

    def loss(self, scores: SequenceScores) -> ObjectiveOutput:
        """Negative log-likelihood per completion or per token."""
        policy = scores.policy_chosen
        policy = policy if policy.dtype.itemsize >= 4 else policy.float()
        weights = scores.chosen_weights
        if not self.per_token:
            if weights is None:
                return ObjectiveOutput(-policy.mean())
            return ObjectiveOutput(
                -(check_weights(weights, policy, "weights").to(policy.dtype) * policy).sum()
            )
        if scores.chosen_lengths is None:
            raise ValueError(
                "per_token=True needs SequenceScores.chosen_lengths, got none; use per_token=False"
            )
        tokens = scores.chosen_lengths.to(policy.dtype)
        if weights is not None:
            weights = weights.to(policy.dtype)
            policy, tokens = weights * policy, weights * tokens
        return ObjectiveOutput(-policy.sum() / tokens.sum())
