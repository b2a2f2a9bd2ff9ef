"""What an objective sees of an optimizer batch, and what it answers: scores in, loss and metrics out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distal.transport._checks import check_pair, check_weights

__all__ = ["ObjectiveOutput", "SequenceScores"]


def _check_side(policy: Tensor, reference: Tensor, side: str) -> None:
    """Check the policy's and the reference's scores of one side of the batch against each other."""
    check_pair(policy, reference, f"policy_{side}", f"reference_{side}")
    if policy.shape != reference.shape:
        raise ValueError(
            f"policy_{side} and reference_{side} must have equal lengths, "
            f"got {policy.numel()} and {reference.numel()}"
        )


@dataclass(frozen=True, eq=False)
class SequenceScores:
    """Scores of one optimizer batch under policy and reference, split into preferred and other completions.

    A score is the summed log-probability of a completion given its prompt, nats. Build it with `from_pairs`
    or `from_samples`. Half-precision scores are promoted to float32 wherever they are used; gradients return
    in the type of the input.

    Attributes:
        policy_chosen: policy scores of preferred completions, shape (n,).
        policy_rejected: policy scores of the others, shape (m,).
        reference_chosen: reference scores, shape (n,).
        reference_rejected: reference scores, shape (m,).
        paired: True if entry i of both sides answers the same prompt; then n = m.
        chosen_weights: weights of preferred completions (of pairs, if paired), shape (n,), or None for equal
            ones.
        rejected_weights: weights of the others, shape (m,), or None; both or neither are given, and for pairs the
            same.
        chosen_lengths: completion tokens of preferred completions, shape (n,), or None if not known.
        mismatched_rewards: rewards of completions under prompts that they do not answer, shape (k,), or None;
            only for the mismatched KL baseline of `kto`.

    Examples:
        >>> scores = SequenceScores.from_pairs(
        ...     torch.tensor([-5.0]), torch.tensor([-9.0]), torch.tensor([-6.0]), torch.tensor([-7.0])
        ... )
        >>> scores.reward_chosen.tolist(), scores.reward_rejected.tolist(), scores.paired
        ([1.0], [-2.0], True)
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    paired: bool = field(default=False, kw_only=True)
    chosen_weights: Tensor | None = field(default=None, kw_only=True)
    rejected_weights: Tensor | None = field(default=None, kw_only=True)
    chosen_lengths: Tensor | None = field(default=None, kw_only=True)
    mismatched_rewards: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check shapes, types, devices and finiteness."""
        _check_side(self.policy_chosen, self.reference_chosen, "chosen")
        _check_side(self.policy_rejected, self.reference_rejected, "rejected")
        check_pair(self.policy_chosen, self.policy_rejected, "policy_chosen", "policy_rejected")
        n, m = self.policy_chosen.numel(), self.policy_rejected.numel()
        if self.paired and n != m:
            raise ValueError(f"pairs need one rejected score per chosen one, got {n} chosen and {m} rejected")
        self._check_extras()

    def _check_extras(self) -> None:
        if (self.chosen_weights is None) != (self.rejected_weights is None):
            raise ValueError(
                "chosen_weights and rejected_weights must be given together, got only one of them"
            )
        if self.chosen_weights is not None:
            check_weights(self.chosen_weights, self.policy_chosen, "chosen_weights")
            check_weights(self.rejected_weights, self.policy_rejected, "rejected_weights")
            self._check_weights_of_pairs(self.chosen_weights, self.rejected_weights)
        if self.chosen_lengths is not None:
            check_weights(self.chosen_lengths, self.policy_chosen, "chosen_lengths")
        if self.mismatched_rewards is not None:
            check_pair(self.mismatched_rewards, self.policy_chosen, "mismatched_rewards", "policy_chosen")

    def _check_weights_of_pairs(self, chosen: Tensor, rejected: Tensor | None) -> None:
        if not self.paired or rejected is None or rejected is chosen:
            return
        differ = chosen.double() != rejected.double()
        if bool(differ.any()):
            first = int(differ.nonzero()[0])
            raise ValueError(
                "a pair has one weight: chosen_weights and rejected_weights must be equal where paired=True, got "
                f"{float(chosen[first])} and {float(rejected[first])} at position {first}; use "
                "from_pairs(weights=...), or paired=False for samples with weights of their own"
            )

    @classmethod
    def from_pairs(
        cls,
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        reference_chosen: Tensor,
        reference_rejected: Tensor,
        *,
        weights: Tensor | None = None,
        chosen_lengths: Tensor | None = None,
        mismatched_rewards: Tensor | None = None,
    ) -> SequenceScores:
        """Scores of pairs: entry i of all four belongs to prompt i.

        Args:
            policy_chosen: policy scores of the chosen completions, shape (n,), nats.
            policy_rejected: policy scores of the rejected completions, shape (n,), nats.
            reference_chosen: reference scores of the chosen completions, shape (n,), nats.
            reference_rejected: reference scores of the rejected completions, shape (n,), nats.
            weights: non-negative weights of the pairs, shape (n,); any positive sum.
            chosen_lengths: completion tokens of the chosen completions, shape (n,).
            mismatched_rewards: rewards under prompts that the completions do not answer, shape (k,), nats; for `kto`.

        Raises:
            ValueError: unequal lengths, empty, not 1-D, not finite, or on different devices.
            TypeError: not floating tensors.
        """
        return cls(
            policy_chosen,
            policy_rejected,
            reference_chosen,
            reference_rejected,
            paired=True,
            chosen_weights=weights,
            rejected_weights=weights,
            chosen_lengths=chosen_lengths,
            mismatched_rewards=mismatched_rewards,
        )

    @classmethod
    def from_samples(
        cls,
        policy: Tensor,
        reference: Tensor,
        desirable: Tensor,
        *,
        weights: Tensor | None = None,
        lengths: Tensor | None = None,
        mismatched_rewards: Tensor | None = None,
    ) -> SequenceScores:
        """Scores of unpaired samples, split by label in their order.

        Args:
            policy: policy scores, shape (k,), nats.
            reference: reference scores, shape (k,), nats.
            desirable: boolean labels, shape (k,); True for preferred completions.
            weights: non-negative weights of the samples, shape (k,); those of each label have a positive sum.
            lengths: completion tokens, shape (k,).
            mismatched_rewards: rewards under prompts that the completions do not answer, shape (l,), nats; for `kto`.

        Raises:
            ValueError: only one label present, unequal lengths, empty, not 1-D, not finite, or different
                devices.
            TypeError: scores that are not floating tensors, or labels that are not boolean.
        """
        if getattr(desirable, "dtype", None) != torch.bool:
            found = getattr(desirable, "dtype", type(desirable).__name__)
            raise TypeError(f"desirable must be a boolean tensor, got {found}")
        _check_side(policy, reference, "samples")
        if desirable.shape != policy.shape or desirable.device != policy.device:
            raise ValueError(
                f"desirable must have one label per score, shape {tuple(policy.shape)} on {policy.device}, "
                f"got {tuple(desirable.shape)} on {desirable.device}"
            )
        liked = int(desirable.sum())
        if liked in (0, desirable.numel()):
            raise ValueError(
                f"a batch of samples must hold both labels, got {liked} desirable among {desirable.numel()}; "
                "use a sampler that balances the labels"
            )
        for name, extra in (("weights", weights), ("lengths", lengths)):
            if extra is not None:
                check_weights(extra, policy, name)
        return cls(
            policy[desirable],
            policy[~desirable],
            reference[desirable],
            reference[~desirable],
            chosen_weights=None if weights is None else weights[desirable],
            rejected_weights=None if weights is None else weights[~desirable],
            chosen_lengths=None if lengths is None else lengths[desirable],
            mismatched_rewards=mismatched_rewards,
        )

    @property
    def weighted(self) -> bool:
        """Whether the samples have weights."""
        return self.chosen_weights is not None

    @property
    def reward_chosen(self) -> Tensor:
        """Rewards of preferred completions: policy minus reference score, shape (n,), nats."""
        policy, reference = check_pair(self.policy_chosen, self.reference_chosen)
        return policy - reference

    @property
    def reward_rejected(self) -> Tensor:
        """Rewards of the other completions, shape (m,), nats."""
        policy, reference = check_pair(self.policy_rejected, self.reference_rejected)
        return policy - reference

    @property
    def policy_margin(self) -> Tensor:
        """Chosen minus rejected policy score of each pair, shape (n,), nats."""
        chosen, rejected = check_pair(self.policy_chosen, self.policy_rejected)
        return chosen - rejected

    @property
    def reference_margin(self) -> Tensor:
        """Chosen minus rejected reference score of each pair, shape (n,), nats."""
        chosen, rejected = check_pair(self.reference_chosen, self.reference_rejected)
        return chosen - rejected

    @property
    def reward_margin(self) -> Tensor:
        """Chosen minus rejected reward of each pair, shape (n,), nats."""
        return self.reward_chosen - self.reward_rejected


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective answers.

    Attributes:
        loss: scalar tensor, differentiable in the policy scores.
        metrics: what only the objective knows, as numbers or detached 0-d tensors.
    """

    loss: Tensor
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict[str, float | Tensor])
