"""`single`: every row passes through the model once and is backpropagated at once."""

from __future__ import annotations

from torch import Tensor

from distal.errors import ConfigError
from distal.training.batch import local_batch, without_non_finite
from distal.training.strategies.base import Step, StepResult
from distal.training.strategies.choice import Choice

__all__ = ["Single"]


class Single:
    """One pass: the whole share in one micro-batch, or an objective that is a plain mean over units."""

    name = "single"

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`.

        Raises:
            ConfigError: the objective couples the batch and the share of this rank does not fit into one pass.
        """
        if step.coupled_and_cut:
            raise ConfigError(
                f"strategy: single, but the batch makes {len(step.groups)} micro-batches and "
                f"{step.setting.objective.name} couples them. Raise micro_batch_size or tokens_per_micro_batch until "
                "the rank's share fits into one, or use strategy: auto (or recompute, which always can)."
            )
        return _whole(step) if len(step.groups) == 1 else _streamed(step)

    def kept_bytes(self, step: Step) -> int:
        """Nothing."""
        return 0

    def choice(self) -> Choice | None:
        """None: there is one way only."""
        return None


def _whole(step: Step) -> StepResult:
    (group,) = step.groups
    live = step.score(group)
    result = step.coefficients(step.gather([live]))
    step.backpropagate(live, result.coefficients[result.batch.local][group])
    return result


def _streamed(step: Step) -> StepResult:
    """Each micro-batch is an objective of its own, and counts by its units, or by their weights."""
    scores: list[Tensor] = []
    share = step.shares()
    for group, sync in step.last_in_sync(step.groups):
        with sync:
            live = step.score(group)
            scores.append(live.detach())
            if not group:
                step.backpropagate(live, live.detach())
                continue
            rows = [step.rows[i] for i in group]
            part = local_batch(step.setting.kind, rows, scores[-1])
            # A NaN must not stop this rank alone, while the others wait for it in a collective: it is refused
            # below, where the whole batch is gathered, on every rank at once.
            part = without_non_finite(part)
            coefficients = step.coefficients(part).coefficients
            step.backpropagate(live, coefficients * share(rows))
    return step.coefficients(step.gather(scores))
