"""`recompute`: score everything without gradient, then run each micro-batch again with its coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from distal.training.strategies.base import Step, StepResult
from distal.training.strategies.randomness import RngState

__all__ = ["Recompute"]


class Recompute:
    """Two passes: one more forward pass than `single`, the memory of one micro-batch."""

    name = "recompute"

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`."""
        states: list[RngState | None] = []
        scores: list[Tensor] = []
        with torch.no_grad():
            for group in step.groups:
                states.append(step.rng_state())
                scores.append(step.score(group))
        result = step.coefficients(step.gather(scores))
        local = result.coefficients[result.batch.local]
        for (group, sync), state in zip(step.last_in_sync(step.groups), states, strict=True):
            if state is not None:
                state.put_back()
            with sync:
                step.backpropagate(step.score(group), local[group])
        return result
