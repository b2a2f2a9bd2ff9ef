"""`retain`: keep the graphs of the micro-batches that fit into memory, and recompute the others."""

from __future__ import annotations

from torch import Tensor

from distal.training.memory import graph_bytes
from distal.training.strategies.base import Step, StepResult
from distal.training.strategies.budget import Budget, graph_sizes
from distal.training.strategies.choice import Choice
from distal.training.strategies.second_pass import score_without_gradient

__all__ = ["Retain"]


class Retain:
    """One pass for what fits, two for the rest; gradients are added up in the order of `recompute`."""

    name = "retain"

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._per_token = 0.0
        self._most = 0
        self._cut_short = False

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`."""
        step.refuse_sharded(self.name)
        allowed = self.budget.bytes(step)
        if self.budget.earlier is not None:
            self._per_token = max(self._per_token, self.budget.earlier.per_token)
        kept: list[Tensor] = []
        used = 0.0
        with step.unsynchronised():
            for group in step.groups:
                # The longest come first, so what a token took so far is no less than what it will take.
                if not group:
                    break
                if used + self._per_token * step.places(group) > allowed:
                    self._cut_short = True
                    break
                scores, size = graph_bytes(step.model, lambda group=group: step.score(group))
                used += size
                self._per_token = max(self._per_token, size / step.places(group))
                kept.append(scores)
        self._most = max(self._most, round(used))
        pending = score_without_gradient(step, step.groups[len(kept) :])
        result = step.coefficients(step.gather([*kept, *pending.scores]))
        local = result.coefficients[result.batch.local]
        contributed = False
        with step.unsynchronised():
            for group in step.groups[: len(kept)]:
                scores = kept.pop(0)  # its graph goes with it
                if bool(local[group].any()):
                    step.backpropagate(scores, local[group])
                    contributed = True
        pending.finish(step, local, alone=not contributed)
        return result

    def kept_bytes(self, step: Step) -> int:
        """The graphs that fit, but for the one that every forward pass has."""
        sizes = graph_sizes(step)
        return max(0, min(sizes.all, self.budget.bytes(step)) - sizes.largest)

    def choice(self) -> Choice | None:
        """The budget is needed whole where it has cut a step short: there it says which graphs are kept."""
        budget = self.budget.settled
        if budget is None:
            return None
        before = 0 if self.budget.earlier is None else self.budget.earlier.kept
        kept = budget if self._cut_short else min(budget, max(self._most, before))
        return Choice(strategy=self.name, budget=budget, kept=kept, per_token=self._per_token)
