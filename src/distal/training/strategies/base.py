"""What every strategy works with: one optimizer batch, cut up, and the few things that can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distal.errors import ConfigError
from distal.objectives import Objective, ObjectiveOutput
from distal.scoring import PADDED, Layout, autocast, score_rows, weighted_score
from distal.training.batch import ScoredBatch, gather_batch, refuse_non_finite, rows_per_unit, weights_of
from distal.training.cutting import MicroBatchLimit
from distal.training.ranks import FILLER, padded_to_all_ranks
from distal.training.strategies.choice import Choice
from distal.training.strategies.randomness import RngState
from distal.types import DataKind, TokenRow

__all__ = ["Setting", "Step", "StepResult", "StepStrategy"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What stays the same from step to step.

    Attributes:
        objective: from `distal.objectives.get_objective`.
        kind: of the data.
        limit: what one forward pass may hold.
        layout: how rows are laid out in it.
        autocast_dtype: mixed precision, None for the model's own type.
        world_size: ranks over which data parallelism averages gradients.
        sharded: parameters or gradients are shared out over the ranks (FSDP, ZeRO): every forward and backward
            pass is a collective, so all ranks must make the same passes in the same order.
        backward: runs a backward pass (accelerate's, which knows loss scaling).
        no_sync: context that keeps data parallelism from averaging gradients.
        replay_rng: make a second pass draw the random numbers of the first (with dropout on).
    """

    objective: Objective
    kind: DataKind
    limit: MicroBatchLimit
    layout: Layout = PADDED
    autocast_dtype: torch.dtype | None = None
    world_size: int = 1
    sharded: bool = False
    backward: Callable[[Tensor], None] = torch.Tensor.backward
    no_sync: Callable[[nn.Module], AbstractContextManager[object]] = field(
        default=lambda model: nullcontext()
    )
    replay_rng: bool = False


class StepResult(NamedTuple):
    """Scores of the whole batch, the objective's output, and (n,) coefficients in the order of the batch."""

    batch: ScoredBatch
    output: ObjectiveOutput
    coefficients: Tensor


class StepStrategy(Protocol):
    """A way to get from an optimizer batch to its gradient; it may keep what it learnt for the next step."""

    name: str

    def run(self, step: Step) -> StepResult:
        """Add the gradient of the batch's loss to `.grad` of every rank, averaged over ranks.

        The gradient that averaging data parallelism leaves must be that of the whole batch: `Step.weights` has the
        factor. Every rank must take part in the same collectives, whatever it holds. A score that is not finite
        must reach `Step.gather`, which refuses it on every rank at once.
        """
        ...

    def kept_bytes(self, step: Step) -> int:
        """What the strategy keeps of this batch beside the memory of one micro-batch."""
        ...

    def choice(self) -> Choice | None:
        """What a checkpoint must remember for the last bits to stay the same; None where nothing was settled."""
        ...


@dataclass(frozen=True)
class Step:
    """One optimizer batch of this rank: its rows, in micro-batches, and the operations on them.

    Attributes:
        setting: what stays the same from step to step.
        model: in training mode, possibly wrapped for data parallelism.
        rows: this rank's rows, unit by unit, with reference scores.
        groups: row indices of each micro-batch; together every row once. All ranks have the same number of them, so
            some may be empty.
    """

    setting: Setting
    model: nn.Module
    rows: Sequence[TokenRow]
    groups: list[list[int]]

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def n_units(self) -> int:
        """Units (pairs, or samples when unpaired) of this rank."""
        return len(self.rows) // rows_per_unit(self.setting.kind)

    @property
    def coupled_and_cut(self) -> bool:
        """Whether no micro-batch of this rank can know its coefficients alone."""
        return self.setting.objective.couples_batch and len(self.groups) > 1

    def places(self, group: Sequence[int]) -> int:
        """Token places in the forward pass of a micro-batch, padding included."""
        return self.setting.layout.places([self.rows[i] for i in group])

    @classmethod
    def of(cls, setting: Setting, model: nn.Module, rows: Sequence[TokenRow]) -> Step:
        """A rank's rows cut up; all ranks must call this together."""
        # Ranks that ran different numbers of passes, or another strategy, would wait for each other for ever.
        groups = padded_to_all_ranks(setting.limit.cut(setting.kind, rows, setting.layout))
        return cls(setting, model, rows, groups)

    def separable(self, width: int) -> Step:
        """The same batch in a layout where units of `width` rows have no token places in common."""
        layout = self.setting.layout.separable(width)
        if layout == self.setting.layout:
            return self
        return Step.of(replace(self.setting, layout=layout), self.model, self.rows)

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the step computes gradients of."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def refuse_sharded(self, strategy: str) -> None:
        """Raise ConfigError where weights are shared out over ranks.

        Graphs that outlive the next forward pass, and gradients that are formed outside of autograd, do not meet
        the collective operations by which sharded weights come and go.
        """
        if self.setting.sharded:
            raise ConfigError(
                f"strategy: {strategy} does not work with sharded weights (FSDP, ZeRO-3); use recompute or auto"
            )

    def score(self, group: Sequence[int]) -> Tensor:
        """One forward pass: (len(group),) scores of the rows with these indices."""
        with autocast(self.device, self.setting.autocast_dtype):
            # No scores of an empty group, but a graph: its backward pass adds zeros, in step with the other ranks.
            return score_rows(self.model, [self.rows[i] for i in group] or [FILLER], self.setting.layout)[
                : len(group)
            ]

    def gather(self, scores: Sequence[Tensor]) -> ScoredBatch:
        """The whole batch over all ranks, from the scores of this rank's micro-batches in the order of `groups`.

        Raises:
            NonFiniteError: a score is NaN or infinite; raised on every rank.
        """
        flat = torch.cat([part.detach() for part in scores])
        ordered = torch.empty_like(flat)
        ordered[[i for group in self.groups for i in group]] = flat
        batch = gather_batch(self.setting.kind, self.rows, ordered)
        refuse_non_finite(batch)
        return batch

    def coefficients(self, batch: ScoredBatch) -> StepResult:
        """The objective of a batch, and dL/ds of all its rows in the order of the batch.

        This rank's rows are `coefficients[batch.local]`.
        """
        with torch.enable_grad():
            policy = batch.policy.detach().requires_grad_()
            output = self.setting.objective(batch.sequence_scores(policy))
            (gradient,) = torch.autograd.grad(output.loss, policy)
        return StepResult(batch, output, gradient)

    def weights(self, coefficients: Tensor) -> Tensor:
        """Coefficients as this rank must apply them.

        Data parallelism averages over ranks, but the loss is already that of all ranks: this is the one place where
        the world size enters.
        """
        return coefficients.to(self.device) * self.setting.world_size

    def backpropagate(self, scores: Tensor, coefficients: Tensor) -> None:
        """Add `sum_i c_i ds_i/dtheta` of one micro-batch to `.grad`."""
        self.setting.backward((scores * self.weights(coefficients)).sum())

    def backpropagate_rows(self, group: Sequence[int], coefficients: Tensor) -> None:
        """One forward and backward pass of a micro-batch whose coefficients are known, in the order of `group`."""
        weights = self.weights(coefficients)
        if not group:
            weights = weights.new_zeros(1)
        with autocast(self.device, self.setting.autocast_dtype):
            rows = [self.rows[i] for i in group] or [FILLER]
            total = weighted_score(self.model, rows, weights, self.setting.layout)
        self.setting.backward(total)

    def unsynchronised(self) -> AbstractContextManager[object]:
        """Context in which data parallelism leaves gradients alone."""
        return self.setting.no_sync(self.model)

    def last_in_sync(
        self, groups: Sequence[list[int]]
    ) -> Iterator[tuple[list[int], AbstractContextManager[object]]]:
        """Each group with the context it must run in, forward and backward: only the last averages gradients."""
        for k, group in enumerate(groups):
            yield group, nullcontext() if k == len(groups) - 1 else self.unsynchronised()

    def rng_state(self) -> RngState | None:
        """The random number generators now, where a second pass must replay them."""
        return RngState.take(self.device) if self.setting.replay_rng else None

    def shares(self) -> Callable[[Sequence[TokenRow]], float]:
        """What a part of the batch counts in a mean over units: its share of their weight over all ranks.

        All ranks must call this together.
        """
        width = rows_per_unit(self.setting.kind)
        weights = torch.from_numpy(weights_of(self.rows[::width]))
        sums = torch.tensor([float(self.n_units), float(weights.sum())], dtype=torch.float64)
        bounds = torch.tensor([torch.inf, torch.inf], dtype=torch.float64)
        if len(weights):
            bounds = torch.stack([weights.min(), -weights.max()])
        if self.setting.world_size > 1:
            on_device = self.device if dist.get_backend() == "nccl" else "cpu"
            sums, bounds = sums.to(on_device), bounds.to(on_device)
            dist.all_reduce(sums)
            dist.all_reduce(bounds, op=dist.ReduceOp.MIN)
        n_units, total = float(sums[0]), float(sums[1])
        equal = bool(bounds[0] == -bounds[1])

        def share(rows: Sequence[TokenRow]) -> float:
            if equal:  # by number: the quotient is that of a batch without weights, to the last bit
                return (len(rows) // width) / n_units
            return float(weights_of(rows[::width]).sum()) / total

        return share

    def over_ranks(self, number: int, how: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> int:
        """Sum (or another reduction) of a number over ranks."""
        if self.setting.world_size == 1:
            return number
        on_device = dist.get_backend() == "nccl"
        total = torch.tensor(number, device=self.device if on_device else "cpu")
        dist.all_reduce(total, op=how)
        return int(total.item())
