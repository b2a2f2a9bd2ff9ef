"""The part that `recompute`, `retain` and `deferred` share: scores without gradient now, the gradient later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distal.training.ranks import padded_to_all_ranks
from distal.training.strategies.base import Step
from distal.training.strategies.randomness import RngState

__all__ = ["Pending", "score_without_gradient"]


@dataclass(frozen=True)
class Pending:
    """Micro-batches that were scored without gradient, and the random states they were scored in.

    Attributes:
        groups: row indices of each.
        scores: their scores, nats.
        states: random number generators before each, None where nothing is random.
    """

    groups: list[list[int]]
    scores: list[Tensor]
    states: list[RngState | None]

    def finish(self, step: Step, coefficients: Tensor, *, alone: bool) -> None:
        """Run the micro-batches again, with gradient, and synchronise the step's gradients over the ranks.

        Rows with a coefficient of exactly zero (satisfied hinges) have no gradient and are left out.

        Args:
            step: whose micro-batches these are.
            coefficients: of all rows of this rank.
            alone: nothing else has given gradients to this step, so that a pass is due even if all coefficients
                are zero: a gradient of zero moves an optimizer with momentum, no gradient does not.
        """
        groups, states = self._with_gradient(step, coefficients)
        if step.setting.world_size > 1 or alone:
            groups = padded_to_all_ranks(groups or [[]])
        states += [None] * (len(groups) - len(states))
        for (group, sync), state in zip(step.last_in_sync(groups), states, strict=True):
            if state is not None:
                state.put_back()
            with sync:
                step.backpropagate_rows(group, coefficients[group])

    def _with_gradient(
        self, step: Step, coefficients: Tensor
    ) -> tuple[list[list[int]], list[RngState | None]]:
        rows = [i for group in self.groups for i in group]
        active = [i for i in rows if coefficients[i] != 0]
        if len(active) == len(rows):
            return [group for group in self.groups if group], [
                state for group, state in zip(self.groups, self.states, strict=True) if group
            ]
        if not any(self.states):
            setting = step.setting
            cut = setting.limit.cut_rows(setting.kind, step.rows, sorted(active), setting.layout)
            return cut, [None] * len(cut)
        # The random numbers of a pass belong to all its rows: only whole passes can be left out.
        kept = [k for k, group in enumerate(self.groups) if any(coefficients[i] != 0 for i in group)]
        return [self.groups[k] for k in kept], [self.states[k] for k in kept]


def score_without_gradient(step: Step, groups: Sequence[list[int]]) -> Pending:
    """Score micro-batches in the memory that inference takes."""
    states: list[RngState | None] = []
    scores: list[Tensor] = []
    with torch.no_grad():
        for group in groups:
            states.append(step.rng_state())
            scores.append(step.score(group))
    return Pending(list(groups), scores, states)
