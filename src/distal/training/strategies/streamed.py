"""`streamed`: one pass however the batch is cut, for order statistics that come from running laws."""

from __future__ import annotations

import torch
from torch import Tensor

from distal.objectives import ObjectiveOutput
from distal.training.batch import local_batch, without_non_finite
from distal.training.strategies.base import Step, StepResult
from distal.training.strategies.choice import Choice
from distal.training.stream import OrderStatistics

__all__ = ["Streamed"]


class Streamed:
    """Every micro-batch knows its coefficients by itself; the laws move on when the whole batch is known."""

    name = "streamed"

    def __init__(self, statistics: OrderStatistics) -> None:
        self.statistics = statistics

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`."""
        scores: list[Tensor] = []
        n, m = self.statistics.counts([row.desirable for row in step.rows])
        counts = step.over_ranks(n), step.over_ranks(m)
        for group, sync in step.last_in_sync(step.groups):
            with sync:
                live = step.score(group)
                scores.append(live.detach())
                part = local_batch(step.setting.kind, [step.rows[i] for i in group], scores[-1])
                # As in `single`: a NaN is refused below, on every rank at once.
                _, coefficients = self.statistics.evaluate(without_non_finite(part), counts)
                step.backpropagate(live, coefficients)
        batch = step.gather(scores)
        output, coefficients = self.statistics.evaluate(batch, counts)
        exact = step.setting.objective(batch.sequence_scores()).loss
        output = ObjectiveOutput(output.loss, {"stream/batch_loss": exact})
        if bool(torch.isfinite(output.loss)):
            self.statistics.update(batch)
        return StepResult(batch, output, coefficients)

    def kept_bytes(self, step: Step) -> int:
        """The running laws are a few thousand numbers on the host."""
        return 0

    def choice(self) -> Choice | None:
        """None: there is one way only."""
        return None
