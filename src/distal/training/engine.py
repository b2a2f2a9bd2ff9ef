"""The whole-batch engine: one optimizer step's loss and gradient, exact however the batch is cut up.

An objective is a function of the optimizer batch's scores, L(s_1, ..., s_n), and a model meets it only through
the coefficients c_i = dL/ds_i:

    dL/dtheta = sum_i c_i ds_i/dtheta

So it is enough to know all scores before the coefficients are applied. How a step gets there is a strategy
(`distal.training.strategies`). With N parameters that take part in matrix products, per token:

| strategy | FLOP, LoRA / full | memory beside one micro-batch | exact where |
|---|---|---|---|
| `single` | 4N / 6N | none | one micro-batch per rank, or an objective that does not couple the batch |
| `retain` | 4N / 6N for what fits, else as `recompute` | the graphs that fit | weights are not sharded |
| `deferred` | 4N | one adapter gradient per unit | only LoRA matrices are trained, weights are not sharded |
| `recompute` | 6N / 8N | none | always |

All give the same gradient to rounding. Nothing here knows which objective or which model it serves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distal.errors import NonFiniteError
from distal.objectives import Objective
from distal.scoring import PADDED, Layout, compute_dtype
from distal.training.batch import ScoredBatch, without_rounding
from distal.training.cutting import MicroBatchLimit
from distal.training.metrics import batch_metrics, defined
from distal.training.ranks import without_sync
from distal.training.strategies import (
    Auto,
    Budget,
    Choice,
    Deferred,
    Recompute,
    Retain,
    Setting,
    Single,
    Step,
    StepStrategy,
    Streamed,
)
from distal.training.stream import OrderStatistics
from distal.types import DataKind, TokenRow

__all__ = ["MicroBatchLimit", "StepOutput", "Strategy", "WholeBatchEngine"]

logger = logging.getLogger(__name__)

Strategy = Literal["auto", "single", "retain", "deferred", "recompute"]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step computed of the whole optimizer batch, equal on all ranks.

    Attributes:
        loss: 0-d, detached.
        batch: scores of all n rows, on the host, as they were computed.
        coefficients: (n,) d loss / d score of all rows, on the host, in the order of the batch.
        metrics: numbers for the log.
    """

    loss: Tensor
    batch: ScoredBatch
    coefficients: Tensor
    metrics: dict[str, float] = field(default_factory=dict[str, float])


class WholeBatchEngine:
    """Computes the gradient of one optimizer batch's objective into `.grad`.

    Args:
        objective: from `distal.objectives.get_objective`.
        kind: of the data.
        limit: what one forward pass may hold.
        layout: how rows are laid out in it; one that `choose_layout` found to be right with the model.
        strategy: `auto` takes the cheapest that is exact and fits.
        memory_budget: bytes that `retain` and `deferred` may use, the graph of one micro-batch among them; None to
            measure what is free.
        deferred_dtype: what `deferred` stores unit gradients in; None for the adapter's type.
        autocast_dtype: mixed precision, None for the model's own type.
        world_size: ranks over which data parallelism averages gradients.
        sharded: parameters or gradients are shared out over the ranks (FSDP, ZeRO).
        backward: runs a backward pass (accelerate's, which knows loss scaling).
        no_sync: context that keeps data parallelism from averaging gradients; all but the last micro-batch run in it.
            The default knows DDP and FSDP2.
        replay_rng: make the second pass of `recompute` draw the random numbers of the first (with dropout on).
        statistics: running laws that stand in for the sorted batch; then every step takes one pass, whatever
            `strategy` says.
        earlier: what the run had settled on before it was interrupted, so that it goes on with the same last bits;
            it counts where it fits into memory, the basis is the same, and `strategy` names no other.
        basis: options on which its sizes depend.
    """

    def __init__(  # noqa: PLR0913 - most of them are hooks with defaults
        self,
        objective: Objective,
        kind: DataKind,
        limit: MicroBatchLimit,
        *,
        layout: Layout = PADDED,
        strategy: Strategy = "auto",
        memory_budget: int | None = None,
        deferred_dtype: torch.dtype | None = None,
        autocast_dtype: torch.dtype | None = None,
        world_size: int = 1,
        sharded: bool = False,
        backward: Callable[[Tensor], None] = torch.Tensor.backward,
        no_sync: Callable[[nn.Module], AbstractContextManager[object]] = without_sync,
        replay_rng: bool = False,
        statistics: OrderStatistics | None = None,
        earlier: Choice | None = None,
        basis: Mapping[str, Any] | None = None,
    ) -> None:
        self.setting = Setting(
            objective=objective,
            kind=kind,
            limit=limit,
            layout=layout,
            autocast_dtype=autocast_dtype,
            world_size=world_size,
            sharded=sharded,
            backward=backward,
            no_sync=no_sync,
            replay_rng=replay_rng,
        )
        self.strategy: Strategy = strategy
        self._basis = dict(basis or {})
        budget = Budget(memory_budget, self._still_of_use(earlier))
        known: dict[Strategy, StepStrategy] = {
            "auto": Auto(budget, deferred_dtype),
            "single": Single(),
            "retain": Retain(budget),
            "deferred": Deferred(budget, deferred_dtype),
            "recompute": Recompute(),
        }
        self._strategy = known[strategy] if statistics is None else Streamed(statistics)

    @property
    def choice(self) -> str:
        """The strategy at work; under `auto` with the reason, once there is one."""
        return self._strategy.reason if isinstance(self._strategy, Auto) else self._strategy.name

    def settled(self) -> Choice | None:
        """What a checkpoint must remember of the strategy at work; None where nothing was settled."""
        choice = self._strategy.choice()
        return None if choice is None else replace(choice, basis=self._basis)

    def _still_of_use(self, earlier: Choice | None) -> Choice | None:
        if earlier is None or self.strategy not in ("auto", earlier.strategy):
            return None
        changed = sorted(
            name
            for name in {*self._basis, *earlier.basis}
            if self._basis.get(name) != earlier.basis.get(name)
        )
        if not changed:
            return earlier
        logger.info(
            "strategy: %s of the checkpoint was settled on with another %s; decided anew",
            earlier.strategy,
            ", ".join(changed),
        )
        return None

    def step(self, model: nn.Module, rows: Sequence[TokenRow]) -> StepOutput:
        """Accumulate the gradient of the optimizer batch's loss, and return that loss.

        Args:
            model: in training mode.
            rows: this rank's rows, unit by unit, with reference scores.

        Raises:
            NonFiniteError: a score or the loss is NaN or infinite. Raised on every rank, before any optimizer step.
            ConfigError: strategy `single` was demanded and is not exact here.
        """
        step = self._step(model, rows)
        batch, output, coefficients = self._strategy.run(step)
        if not torch.isfinite(output.loss):
            raise NonFiniteError(
                f"the loss of {self.setting.objective.name} is {output.loss.item()} although all scores are finite "
                f"(largest |score| {batch.policy.abs().max().item():.3g} nats). Lower beta or the learning rate."
            )
        rounded = without_rounding(batch, compute_dtype(model, self.setting.autocast_dtype))
        metrics = batch_metrics(rounded, self.setting.objective)
        if isinstance(self._strategy, Streamed):
            metrics |= defined(output.metrics)
        return StepOutput(output.loss.detach(), batch, coefficients, metrics)

    def kept_bytes(self, model: nn.Module, rows: Sequence[TokenRow]) -> int:
        """Bytes that the strategy keeps of such a batch, beside the memory of one micro-batch; `auto` chooses."""
        return self._strategy.kept_bytes(self._step(model, rows))

    def _step(self, model: nn.Module, rows: Sequence[TokenRow]) -> Step:
        return Step.of(self.setting, model, rows)
