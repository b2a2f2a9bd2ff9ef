"""The Trainer's steps under guard: what is not finite stops before the update, what looks ill is written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from transformers import Trainer

from distal.errors import NonFiniteError
from distal.objectives import Objective
from distal.training.engine import StepOutput, WholeBatchEngine
from distal.training.guards import (
    GradientNormCheck,
    blame,
    refuse_non_finite_gradient,
    rows_with_bad_gradient,
)
from distal.training.health.callback import HealthCallback
from distal.training.health.probe import Probe
from distal.training.saving import ResumableTrainer
from distal.types import RowSource, TokenRow

__all__ = ["GuardedTrainer"]

logger = logging.getLogger(__name__)


class GuardedTrainer(ResumableTrainer):
    """A trainer that keeps what its last step computed, checks it, and has it watched.

    Attributes:
        last_step: what the engine computed of the last optimizer batch; None before the first.
    """

    last_step: StepOutput | None = None
    _last_rows: Sequence[TokenRow] = ()
    _health: HealthCallback | None = None

    @property
    def engine(self) -> WholeBatchEngine:
        """The engine that computes each step."""
        raise NotImplementedError

    def watch(self, objective: Objective, dataset: Callable[[], RowSource]) -> None:
        """Add the callbacks that the settings ask for.

        Args:
            objective: that the steps minimise.
            dataset: gives the training data, once they are asked for.
        """
        if not hasattr(Trainer, "_get_grad_norm"):
            self.add_callback(GradientNormCheck(self.check_gradient))
        thresholds = self.args.health_thresholds
        if thresholds is None:
            return

        def probe() -> Probe:
            return Probe.of(
                dataset(),
                thresholds.probe_size,
                new_tokens=thresholds.probe_new_tokens,
                entropy=thresholds.entropy_ratio is not None,
                autocast_dtype=self.args.autocast_dtype,
            )

        self._health = HealthCallback(thresholds, objective, lambda: self.last_step, probe)
        self.add_callback(self._health)

    def guarded_step(self, model: nn.Module, rows: Sequence[TokenRow]) -> StepOutput:
        """One optimizer batch through the engine; its output is kept.

        Raises:
            NonFiniteError: a score or the loss is not finite.
        """
        try:
            output = self.engine.step(model, rows)
        except NonFiniteError as error:
            self._record(error)
            raise
        self.last_step, self._last_rows = output, rows
        return output

    def check_gradient(self, norm: Any) -> None:
        """Stop before the optimizer step where the gradient is not finite.

        Raises:
            NonFiniteError: it is not; the message names rows.
        """
        scaler: Any = getattr(self.accelerator, "scaler", None)
        scale = None if scaler is None else scaler.get_scale()
        try:
            refuse_non_finite_gradient(norm, loss_scale=scale, culprits=self._culprits)
        except NonFiniteError as error:
            self._record(error)
            raise

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self.check_gradient(norm)
        return norm

    def _record(self, error: NonFiniteError) -> None:
        if self._health is not None:
            self._health.on_error(self.state.global_step + 1, "non_finite", error)

    def _culprits(self) -> str:
        """Names the rows of this rank whose gradient is not finite, or all of them where that cannot be told."""
        bad, step, rows = None, self.last_step, self._last_rows
        model: Any = self.model
        model.zero_grad()  # makes room; the run is over
        if step is not None and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            layout = self.engine.setting.layout
            groups = self.args.micro_batch_limit.cut(step.batch.kind, rows, layout)
            weights = step.coefficients[step.batch.local]
            try:
                bad = rows_with_bad_gradient(model, rows, weights, groups, self.args.autocast_dtype, layout)
            except RuntimeError:  # some ways of checkpointing activations refuse it; then all rows are named
                logger.debug("rows could not be tried one by one", exc_info=True)
        return blame(bad, rows)
