"""Objectives that look at one pair at a time: DPO, IPO and the hinge of SLiC."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from distal.objectives.base import DataKind, Objective, option
from distal.objectives.scores import ObjectiveOutput, SequenceScores
from distal.transport._checks import check_positive, check_weights
from distal.transport.costs import HingeCost, LeastSquaresCost, LogisticCost, SmoothedCost

__all__ = ["Dpo", "Hinge", "Ipo", "PairwiseObjective"]

_SLOPE = "slope of the loss in the reward margin, 1/nats"


@dataclass(frozen=True, kw_only=True)
class PairwiseObjective(Objective):
    """The mean over pairs of a function of the pair's reward margin."""

    data: ClassVar[DataKind] = "paired"
    uses_weights: ClassVar[bool] = True

    @property
    def couples_batch(self) -> bool:
        """False: every pair stands alone."""
        return False

    @property
    def uses_margins(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def per_pair(self, margin: Tensor) -> Tensor:
        """Loss of each pair, shape (n,), from its reward margin, shape (n,), nats."""

    def loss(self, scores: SequenceScores) -> ObjectiveOutput:
        """Mean of the pairs' losses, weighted where pairs have weights."""
        losses = self.per_pair(scores.reward_margin)
        if scores.chosen_weights is None:
            return ObjectiveOutput(losses.mean())
        weights = check_weights(scores.chosen_weights, losses, "weights")
        return ObjectiveOutput((weights.to(losses.dtype) * losses).sum())


@dataclass(frozen=True, kw_only=True)
class Dpo(PairwiseObjective):
    """Direct preference optimisation: the mean of `(1-s) log(1 + exp(-beta d)) + s log(1 + exp(beta d))`.

    `d` is the reward margin of a pair, chosen minus rejected, and `s` the label smoothing (conservative DPO).

    Source:
        arXiv 2305.18290, eq. (7); label smoothing as in the conservative DPO note of its authors.

    Examples:
        >>> import torch
        >>> zero = torch.zeros(3)
        >>> round(Dpo()(SequenceScores.from_pairs(zero, zero, zero, zero)).loss.item(), 6)
        0.693147
    """

    beta: float = option(0.1, _SLOPE)
    label_smoothing: float = option(0.0, "assumed share of flipped labels, in [0, 0.5)")

    name: ClassVar[str] = "dpo"
    default_beta: ClassVar[float | None] = 0.1
    source: ClassVar[str] = "arXiv 2305.18290, eq. (7)"
    beta_source: ClassVar[str | None] = "its experiments; TRL's default too"

    def __post_init__(self) -> None:
        """Check the options."""
        SmoothedCost(LogisticCost(self.beta), self.label_smoothing)

    def per_pair(self, margin: Tensor) -> Tensor:
        """Smoothed logistic loss of each pair."""
        return SmoothedCost(LogisticCost(self.beta), self.label_smoothing)(margin)


@dataclass(frozen=True, kw_only=True)
class Ipo(PairwiseObjective):
    """Identity preference optimisation: the mean of `(d - 1/(2 beta))^2`, `d` the reward margin of a pair.

    Rewards are sums over tokens, as in the paper; TRL divides each by its completion's length.

    Source:
        arXiv 2310.12036, eq. (17), where beta is called tau.

    Examples:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> Ipo(beta=0.25)(SequenceScores.from_pairs(zero, zero, zero, zero)).loss.item()
        4.0
    """

    beta: float = option(
        0.1, "strength of the pull to the reference, 1/nats: the margin aimed at is 1/(2 beta) nats"
    )

    name: ClassVar[str] = "ipo"
    default_beta: ClassVar[float | None] = 0.1
    source: ClassVar[str] = "arXiv 2310.12036, eq. (17)"
    beta_source: ClassVar[str | None] = "TRL's default"

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive(self.beta, "beta", meaning="half the inverse of the margin aimed at, 1/nats")

    def per_pair(self, margin: Tensor) -> Tensor:
        """Squared distance of each margin from the one aimed at."""
        return LeastSquaresCost(1.0 / (2.0 * self.beta))(margin)


@dataclass(frozen=True, kw_only=True)
class Hinge(PairwiseObjective):
    """The hinge loss of SLiC on normalised likelihoods: the mean of `max(1 - beta d, 0)`.

    `d` is the reward margin of a pair.

    Source:
        arXiv 2305.10425 (SLiC-HF); with log-ratios as here, arXiv 2309.06657 (RSO), eq. (12).

    Examples:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> Hinge()(SequenceScores.from_pairs(zero, zero, zero, zero)).loss.item()
        1.0
    """

    beta: float = option(0.1, _SLOPE + "; the loss of a pair vanishes beyond a margin of 1/beta nats")

    name: ClassVar[str] = "hinge"
    default_beta: ClassVar[float | None] = 0.1
    source: ClassVar[str] = "arXiv 2305.10425; arXiv 2309.06657, eq. (12)"
    beta_source: ClassVar[str | None] = "TRL's default"

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive(self.beta, "beta", meaning=_SLOPE)

    def per_pair(self, margin: Tensor) -> Tensor:
        """Hinge loss of each pair."""
        return HingeCost(1.0)(self.beta * margin)
