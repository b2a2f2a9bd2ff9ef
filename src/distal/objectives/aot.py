"""Alignment via optimal transport (AOT): costs between two laws of the whole optimizer batch.

`aot` and `aot_unpaired` differ in the two laws that they compare, `aot2` and `aot2_unpaired` in the curve:
quantiles at first order, integrated quantiles at second order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from distal.objectives.base import DataKind, Objective, option
from distal.objectives.grouping import sort_groups
from distal.objectives.scores import ObjectiveOutput, SequenceScores
from distal.objectives.transport_options import SortOptions, build_cost, build_distortion
from distal.transport._checks import check_whole, scale_weights
from distal.transport.costs import Cost, SmoothedCost
from distal.transport.dominance import Order, ratio_of_sorted
from distal.transport.levels import Distortion, integrated_cost_on_cells, reweight_levels
from distal.transport.soft_sorting import soft_sort
from distal.transport.solver import SortedProblem, Staircase, cost_on_cells, sort_problem, staircase
from distal.transport.sorting import share_ties

__all__ = ["Aot", "Aot2", "Aot2Unpaired", "AotUnpaired", "Laws", "TransportObjective"]


class Laws(NamedTuple):
    """Two samples, the first of which should dominate, with their weights; `paired` if entry i belongs together."""

    u: Tensor
    v: Tensor
    u_weights: Tensor | None
    v_weights: Tensor | None
    paired: bool


@dataclass(frozen=True, kw_only=True)
class TransportObjective(Objective):
    """A convex cost of the gap between the quantile curves of two laws."""

    cost: str | Cost = option("logistic", "convex cost of a quantile gap: a name, or a callable on tensors")
    beta: float | None = option(None, "slope of the logistic cost, 1/nats; 0.01 unless set")
    margin: float | None = option(None, "margin of the other named costs, nats; 0.01 unless set")
    label_smoothing: float = option(0.0, "assumed share of flipped labels, in [0, 0.5)")
    sort: str = option("hard", "how the samples are sorted: 'hard' or 'soft'")
    soft_sort_strength: float | None = option(None, "strength of the soft sort, 1/nats; 0.1 unless set")
    soft_sort_regularization: str | None = option(None, "'l2' (unless set) or 'entropic' soft sort")
    sort_group: int | None = option(
        None, "samples of one side sorted together; the whole optimizer batch unless set"
    )
    sort_group_seed: int | None = option(None, "seed of the partition into sort groups; 0 unless set")

    default_beta: ClassVar[float | None] = 0.01
    beta_source: ClassVar[str | None] = "arXiv 2406.05882, experiments (Figs 2-3)"
    uses_weights: ClassVar[bool] = True
    order: ClassVar[Order]

    def __post_init__(self) -> None:
        """Check the options."""
        self.gap_cost()
        self.sorting()
        _check_group(self.sort_group, self.sort_group_seed)

    @property
    def couples_batch(self) -> bool:
        """True: the place of a sample in the sorted batch depends on all others."""
        return True

    @property
    def refuses_weights(self) -> str | None:
        """The soft sort mixes samples, so that what comes out of it has no sample's weight."""
        if self.sort != "soft":
            return None
        return "sort='soft' mixes samples, so it cannot carry sample weights; use sort='hard'"

    @abstractmethod
    def laws(self, scores: SequenceScores) -> Laws:
        """The two samples that are compared."""

    @abstractmethod
    def cost_of_sorted(self, problem: SortedProblem) -> Tensor:
        """Cost of two sorted samples, a scalar."""

    def gap_cost(self) -> Cost:
        """The cost of a gap, label smoothing included."""
        cost = build_cost(self.cost, beta=self.beta, margin=self.margin)
        return SmoothedCost(cost, self.label_smoothing) if self.label_smoothing != 0 else cost

    def sorting(self) -> SortOptions:
        """The soft sort's options; strength None for the hard sort."""
        return SortOptions.build(self.sort, self.soft_sort_strength, self.soft_sort_regularization)

    def loss(self, scores: SequenceScores) -> ObjectiveOutput:
        """Cost of the gap between the two laws, averaged over sort groups."""
        laws = self.laws(scores)
        if self.sort_group is None:
            total = self._between(laws)
        else:
            total = torch.stack([mass * self._between(part) for mass, part in self._groups(laws)]).sum()
        return ObjectiveOutput(total, {"dominance/batch_violation_ratio": self._violation_ratio(laws)})

    def _between(self, laws: Laws) -> Tensor:
        problem = sort_problem(laws.u, laws.v, laws.u_weights, laws.v_weights)
        soft = self.sorting()
        if soft.strength is None:
            u = share_ties(problem.u, _masses(laws.u, laws.u_weights)[problem.u_order])
            v = share_ties(problem.v, _masses(laws.v, laws.v_weights)[problem.v_order])
        else:
            u = soft_sort(laws.u, soft.strength, soft.regularization)
            v = soft_sort(laws.v, soft.strength, soft.regularization)
        return self.cost_of_sorted(problem._replace(u=u, v=v))

    def _groups(self, laws: Laws) -> list[tuple[Tensor, Laws]]:
        """Each sort group with its share of the batch's weight."""
        assert self.sort_group is not None
        a, b = _masses(laws.u, laws.u_weights), _masses(laws.v, laws.v_weights)
        groups = sort_groups(a, b, self.sort_group, seed=self.sort_group_seed or 0, paired=laws.paired)
        return [
            (mass.to(laws.u.dtype), Laws(laws.u[i], laws.v[j], on_u, on_v, laws.paired))
            for mass, i, j, on_u, on_v in groups
        ]

    @torch.no_grad()
    def _violation_ratio(self, laws: Laws) -> Tensor:
        problem = sort_problem(laws.u, laws.v, laws.u_weights, laws.v_weights, equal_grids=False)
        assert problem.cells is not None
        return ratio_of_sorted(problem.u, problem.v, problem.cells, self.order)


def _check_group(size: object, seed: object) -> None:
    if size is not None:
        check_whole(size, "sort_group", least=1)
    if seed is not None:
        check_whole(seed, "sort_group_seed", least=0)
        if size is None:
            raise ValueError(
                f"option 'sort_group_seed' is not used without sort_group, got {seed}; set sort_group too"
            )


def _masses(sample: Tensor, weights: Tensor | None) -> Tensor:
    """Weights in a unit of their own, float64, shape (n,)."""
    if weights is None:
        return torch.ones(sample.shape, dtype=torch.float64, device=sample.device)
    return scale_weights(weights, sample, "weights")


@dataclass(frozen=True, kw_only=True)
class PairedLaws(TransportObjective):
    """Compares the policy's margins with the reference's margins."""

    data: ClassVar[DataKind] = "paired"

    @property
    def couples_batch(self) -> bool:
        """False only in sort groups of one pair, where nothing is left to sort."""
        return self.sort_group != 1

    @property
    def uses_margins(self) -> bool:
        """True: both laws are laws of margins."""
        return True

    def laws(self, scores: SequenceScores) -> Laws:
        """Policy margins and reference margins."""
        weights = scores.chosen_weights
        return Laws(scores.policy_margin, scores.reference_margin, weights, weights, paired=True)


@dataclass(frozen=True, kw_only=True)
class UnpairedLaws(TransportObjective):
    """Compares the rewards of preferred completions with those of the others."""

    data: ClassVar[DataKind] = "unpaired"

    def laws(self, scores: SequenceScores) -> Laws:
        """Rewards of both classes."""
        weights = scores.chosen_weights, scores.rejected_weights
        return Laws(scores.reward_chosen, scores.reward_rejected, *weights, scores.paired)


@dataclass(frozen=True, kw_only=True)
class FirstOrder(TransportObjective):
    """The transport cost `int h(Q_U(t) - Q_V(t)) dW(t)`, W(t) = t unless levels are weighted."""

    quantile_weighting: Distortion | Sequence[float] | None = option(
        None, "levels that count: a band such as [0, 0.1], or a callable cumulative weight on [0, 1]"
    )

    order: ClassVar[Order] = 1

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        build_distortion(self.quantile_weighting)

    def cost_of_sorted(self, problem: SortedProblem) -> Tensor:
        """Transport cost, of the weighted levels if any."""
        cells, distortion = problem.cells, build_distortion(self.quantile_weighting)
        if distortion is not None:
            cells = reweight_levels(_cells(problem), distortion)
        return cost_on_cells(problem.u, problem.v, self.gap_cost(), cells)


@dataclass(frozen=True, kw_only=True)
class SecondOrder(TransportObjective):
    """The cost `int h(D(t)) dt` of the integrated gap `D(t) = int_0^t (Q_U - Q_V)`."""

    order: ClassVar[Order] = 2

    def cost_of_sorted(self, problem: SortedProblem) -> Tensor:
        """Cost of the integrated quantile gap."""
        return integrated_cost_on_cells(problem.u, problem.v, self.gap_cost(), _cells(problem))


def _cells(problem: SortedProblem) -> Staircase:
    return problem.cells or staircase(problem.u.numel(), problem.v.numel(), problem.u.device)


_SOURCE_2 = (
    "second-order dominance, named as the next step by the authors of arXiv 2406.05882; derived in the docs"
)


@dataclass(frozen=True, kw_only=True)
class Aot(PairedLaws, FirstOrder):
    """Paired AOT: the policy's margins should dominate the reference's margins.

    With `u_i = log pi(y+|x) - log pi(y-|x)` and `v_i` the same of the reference, both sorted over the
    optimizer batch, the loss is `(1/n) sum_i h(u_(i) - v_(i))`. With one pair it is DPO.

    Source:
        arXiv 2406.05882, Definition 2, eqs (10)-(11), Algorithm 2.

    Examples:
        >>> zero = torch.zeros(4)
        >>> round(Aot()(SequenceScores.from_pairs(zero, zero, zero, zero)).loss.item(), 6)
        0.693147
    """

    name: ClassVar[str] = "aot"
    source: ClassVar[str] = "arXiv 2406.05882, Definition 2, eqs (10)-(11)"


@dataclass(frozen=True, kw_only=True)
class AotUnpaired(UnpairedLaws, FirstOrder):
    """Unpaired AOT: the rewards of preferred completions should dominate those of the others.

    With `u_i` the rewards (log-ratios) of n preferred completions and `v_j` those of m others, the loss is
    `OT_h(U, V)`: for n = m the mean of `h(u_(i) - v_(i))`, otherwise on the merged quantile grids. Pairs are
    taken as two samples.

    Source:
        arXiv 2406.05882, Definition 1, eq. (7), Algorithm 1; appendix C for unequal counts.

    Examples:
        >>> policy, reference = torch.tensor([-3.0, -4.0, -5.0]), torch.tensor([-3.0, -4.0, -5.0])
        >>> scores = SequenceScores.from_samples(policy, reference, torch.tensor([True, False, True]))
        >>> round(AotUnpaired()(scores).loss.item(), 6)
        0.693147
    """

    name: ClassVar[str] = "aot_unpaired"
    source: ClassVar[str] = "arXiv 2406.05882, Definition 1, eq. (7)"


@dataclass(frozen=True, kw_only=True)
class Aot2(PairedLaws, SecondOrder):
    """Paired AOT at second order: integrated quantiles of the policy's margins over those of the reference.

    The cost is applied to `D(t) = int_0^t (Q_U - Q_V)`, so that a low quantile counts in every `D(t)` above
    it: the lower tail of the margins gets the larger coefficients.

    Examples:
        >>> zero = torch.zeros(4)
        >>> round(Aot2()(SequenceScores.from_pairs(zero, zero, zero, zero)).loss.item(), 6)
        0.693147
    """

    name: ClassVar[str] = "aot2"
    source: ClassVar[str] = _SOURCE_2


@dataclass(frozen=True, kw_only=True)
class Aot2Unpaired(UnpairedLaws, SecondOrder):
    """Unpaired AOT at second order: integrated quantiles of preferred rewards over those of the others.

    Examples:
        >>> scores = SequenceScores(torch.ones(2), torch.zeros(3), torch.ones(2), torch.zeros(3))
        >>> round(Aot2Unpaired()(scores).loss.item(), 6)
        0.693147
    """

    name: ClassVar[str] = "aot2_unpaired"
    source: ClassVar[str] = _SOURCE_2
