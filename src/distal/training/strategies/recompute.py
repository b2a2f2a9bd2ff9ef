"""`recompute`: score everything without gradient, then run each micro-batch again with its coefficients."""

from __future__ import annotations

from distal.training.strategies.base import Step, StepResult
from distal.training.strategies.choice import Choice
from distal.training.strategies.second_pass import score_without_gradient

__all__ = ["Recompute"]


class Recompute:
    """Two passes: one more forward pass than `single`, the memory of one micro-batch."""

    name = "recompute"

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`."""
        pending = score_without_gradient(step, step.groups)
        result = step.coefficients(step.gather(pending.scores))
        pending.finish(step, result.coefficients[result.batch.local], alone=True)
        return result

    def kept_bytes(self, step: Step) -> int:
        """Nothing."""
        return 0

    def choice(self) -> Choice | None:
        """Always fits."""
        return Choice(strategy=self.name, budget=0, kept=0)
