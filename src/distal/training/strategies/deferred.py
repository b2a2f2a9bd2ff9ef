"""`deferred`: backpropagate at once with one coefficient for all units, and weigh their gradients afterwards."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distal.errors import ConfigError, ModelError
from distal.training.batch import local_batch, rows_per_unit
from distal.training.strategies.base import Step, StepResult
from distal.training.strategies.budget import Budget, graph_sizes
from distal.training.strategies.choice import Choice
from distal.training.strategies.second_pass import score_without_gradient
from distal.training.strategies.unit_gradients import UnitGradients, adapter_matrices

__all__ = ["Deferred", "adapter_bytes", "unit_rows"]


class Deferred:
    """One pass for the units whose adapter gradients fit into the budget, two for the rest. LoRA only.

    With scores s and coefficients c the gradient is `sum_u c_u ds_u/dtheta`. Where the objective sees margins
    alone, a unit is a pair with `s = s_chosen - s_rejected`; otherwise it is a row.

    Args:
        budget: for the buffer of unit gradients, which is kept from step to step, and the graph of one micro-batch.
        dtype: what unit gradients are stored in; None for the adapter's own type.
    """

    name = "deferred"

    def __init__(self, budget: Budget, dtype: torch.dtype | None = None) -> None:
        self.budget, self.dtype = budget, dtype
        self._gradients: UnitGradients | None = None
        self._graph: int | None = None

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`.

        Raises:
            ConfigError: something other than LoRA matrices is trained.
        """
        step.refuse_sharded(self.name)
        width = unit_rows(step)
        step = step.separable(width)
        gradients = self._buffer(step, width)
        weight = _weight_of_units(step)
        scores: list[Tensor] = []
        with step.unsynchronised():
            for group in step.groups:
                if not group or gradients.used + len(group) // width > gradients.capacity:
                    break
                with gradients.record([step.rows[i] for i in group], width, step.setting.layout):
                    live = step.score(group)
                    step.setting.backward((live * (weight * _signs(live, width))).sum())
                scores.append(live.detach())
        pending = score_without_gradient(step, step.groups[len(scores) :])
        result = step.coefficients(step.gather([*scores, *pending.scores]))
        local = result.coefficients[result.batch.local]
        first_rows = [i for group in step.groups[: len(scores)] for i in group[::width]]
        if first_rows:
            gradients.combine(step.weights(local[first_rows]) / weight)
        pending.finish(step, local, alone=not first_rows)
        return result

    def kept_bytes(self, step: Step) -> int:
        """The buffer."""
        return self._buffer(step, unit_rows(step)).bytes

    def choice(self) -> Choice | None:
        """A budget that holds the buffer, beside the same graph, holds the same units in it."""
        budget = self.budget.settled
        if budget is None:
            return None
        before = 0 if self.budget.earlier is None else self.budget.earlier.kept
        graph = self._graph or 0
        held = 0 if self._gradients is None else self._gradients.bytes + graph
        return Choice(strategy=self.name, budget=budget, kept=min(budget, max(held, before)), graph=graph)

    def _buffer(self, step: Step, width: int) -> UnitGradients:
        """The buffer, made in the first step and again if a later one has more units."""
        needed = len(step.rows) // width
        if self._gradients is None or self._gradients.capacity < needed:
            try:
                matrices = adapter_matrices(step.model)
            except ModelError as error:
                raise ConfigError(f"strategy: deferred: {error}. Use strategy: auto or recompute.") from error
            fitting = self._room(step) // UnitGradients.bytes_per_unit(matrices, self.dtype)
            capacity = max(1, min(needed, fitting))
            if self._gradients is None or self._gradients.capacity < capacity:
                self._gradients = None  # before the larger one is made
                self._gradients = UnitGradients(matrices, capacity, self.dtype)
        self._gradients.used = 0  # a step that failed may have left something
        return self._gradients

    def _room(self, step: Step) -> int:
        """Bytes for the buffer: micro-batches come and go beside it, so the graph of one is left free.

        That graph is measured once; in another size it would move the split of the batch, and with it the last bits.
        """
        budget = self.budget.bytes(step)
        if self._graph is None:
            earlier = self.budget.earlier
            self._graph = (
                step.over_ranks(graph_sizes(step).largest, dist.ReduceOp.MAX)
                if earlier is None
                else earlier.graph
            )
        return max(0, budget - self._graph)


def unit_rows(step: Step) -> int:
    """Rows that share one coefficient up to sign."""
    return rows_per_unit(step.setting.kind) if step.setting.objective.uses_margins else 1


def adapter_bytes(model: nn.Module, dtype: torch.dtype | None) -> int:
    """What the gradient of one unit takes.

    Raises:
        ModelError: something other than LoRA matrices is trained.
    """
    return UnitGradients.bytes_per_unit(adapter_matrices(model), dtype)


def _weight_of_units(step: Step) -> float:
    """What units are backpropagated with, before their coefficients are known: 1, but for float16.

    Loss scaling is made for gradients of the loss. Those of scores are larger by one over the coefficient, and would
    overflow step after step until the scale had come down by as much. So there it is about the coefficient that rewards
    of zero would give, in this batch and no other, for a resumed run to go on with the same bits; and a power of two,
    which rounds nothing.
    """
    if step.setting.autocast_dtype != torch.float16 or step.n_units < 2:  # samples of one label are no batch
        return 1.0
    zeros = torch.zeros(len(step.rows))
    batch = local_batch(step.setting.kind, step.rows, zeros)
    labels = torch.arange(len(zeros)) % 2 == 0
    batch = dataclasses.replace(batch, reference=zeros, desirable=labels)
    typical = step.coefficients(batch).coefficients.abs().max().item()
    return 2.0 ** round(math.log2(typical or 1 / step.n_units))


def _signs(scores: Tensor, width: int) -> Tensor:
    """1 for chosen and -1 for rejected rows of a pair; 1 for single rows."""
    signs = torch.ones_like(scores, requires_grad=False)
    if width == 2:
        signs[1::2] = -1
    return signs
