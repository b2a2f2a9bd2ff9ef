"""The whole-batch engine: one optimizer step's loss and gradient, exact however the batch is cut up.

An objective is a function of the optimizer batch's scores, L(s_1, ..., s_n), and a model meets it only through
the coefficients c_i = dL/ds_i:

    dL/dtheta = sum_i c_i ds_i/dtheta

So it is enough to know all scores before the coefficients are applied. How a step gets there is a strategy
(`distal.training.strategies`):

- `single`: one forward pass. Possible where the rank's rows fit into one micro-batch, or where the objective does
  not couple the batch (then each micro-batch has all it needs).
- `recompute`: score all micro-batches without gradient, compute the coefficients, then run each micro-batch again
  with gradient. One more forward pass, the memory of one micro-batch.

All give the same gradient to rounding. Nothing here knows which objective or which model it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from distal.errors import NonFiniteError
from distal.objectives import Objective
from distal.scoring import compute_dtype
from distal.training.batch import ScoredBatch, without_rounding
from distal.training.cutting import MicroBatchLimit
from distal.training.metrics import batch_metrics, defined
from distal.training.ranks import padded_to_all_ranks, without_sync
from distal.training.strategies import Recompute, Setting, Single, Step, StepStrategy, Streamed
from distal.training.stream import OrderStatistics
from distal.types import DataKind, TokenRow

__all__ = ["MicroBatchLimit", "StepOutput", "Strategy", "WholeBatchEngine"]

Strategy = Literal["auto", "single", "recompute"]


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
        strategy: `auto` takes `single` where it is exact, else `recompute`.
        autocast_dtype: mixed precision, None for the model's own type.
        world_size: ranks over which data parallelism averages gradients.
        sharded: parameters or gradients are shared out over the ranks (FSDP, ZeRO).
        backward: runs a backward pass (accelerate's, which knows loss scaling).
        no_sync: context that keeps data parallelism from averaging gradients; all but the last micro-batch run in it.
            The default knows DDP and FSDP2.
        replay_rng: make the second pass of `recompute` draw the random numbers of the first (with dropout on).
        statistics: running laws that stand in for the sorted batch; then every step takes one pass, whatever
            `strategy` says.
    """

    def __init__(  # noqa: PLR0913 - most of them are hooks with defaults
        self,
        objective: Objective,
        kind: DataKind,
        limit: MicroBatchLimit,
        *,
        strategy: Strategy = "auto",
        autocast_dtype: torch.dtype | None = None,
        world_size: int = 1,
        sharded: bool = False,
        backward: Callable[[Tensor], None] = torch.Tensor.backward,
        no_sync: Callable[[nn.Module], AbstractContextManager[object]] = without_sync,
        replay_rng: bool = False,
        statistics: OrderStatistics | None = None,
    ) -> None:
        self.setting = Setting(
            objective=objective,
            kind=kind,
            limit=limit,
            autocast_dtype=autocast_dtype,
            world_size=world_size,
            sharded=sharded,
            backward=backward,
            no_sync=no_sync,
            replay_rng=replay_rng,
        )
        self.strategy: Strategy = strategy
        self._known: dict[Strategy, StepStrategy] = {"single": Single(), "recompute": Recompute()}
        self._streamed = None if statistics is None else Streamed(statistics)

    def step(self, model: nn.Module, rows: Sequence[TokenRow]) -> StepOutput:
        """Accumulate the gradient of the optimizer batch's loss, and return that loss.

        Args:
            model: in training mode.
            rows: this rank's rows, unit by unit, with reference scores.

        Raises:
            NonFiniteError: a score or the loss is NaN or infinite. Raised on every rank, before any optimizer step.
            ConfigError: strategy `single` was demanded and is not exact here.
        """
        # Ranks that ran different numbers of passes, or another strategy, would wait for each other for ever.
        groups = padded_to_all_ranks(self.setting.limit.cut(self.setting.kind, rows))
        step = Step(self.setting, model, rows, groups)
        batch, output, coefficients = self._choose(step).run(step)
        if not torch.isfinite(output.loss):
            raise NonFiniteError(
                f"the loss of {self.setting.objective.name} is {output.loss.item()} although all scores are finite "
                f"(largest |score| {batch.policy.abs().max().item():.3g} nats). Lower beta or the learning rate."
            )
        rounded = without_rounding(batch, compute_dtype(model, self.setting.autocast_dtype))
        metrics = batch_metrics(rounded, self.setting.objective)
        if self._streamed is not None:
            metrics |= defined(output.metrics)
        return StepOutput(output.loss.detach(), batch, coefficients, metrics)

    def _choose(self, step: Step) -> StepStrategy:
        if self._streamed is not None:
            return self._streamed
        if self.strategy != "auto":
            return self._known[self.strategy]
        return self._known["recompute" if step.coupled_and_cut else "single"]
