"""A weighted sum of objectives on the same batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

from torch import Tensor

from distal.objectives.base import DataKind, Objective, option
from distal.objectives.scores import ObjectiveOutput, SequenceScores
from distal.transport._checks import check_positive

__all__ = ["Mix"]

_DEFAULT_PARTS = ({"objective": "aot", "weight": 1.0}, {"objective": "sft", "weight": 0.01})


@dataclass(frozen=True, kw_only=True)
class Mix(Objective):
    """Several objectives at once: the sum of weight times loss.

    Each part is a mapping with `objective` (a name), `weight` (positive, 1 unless given), and options of that
    objective. The default is paired AOT with a language-model term whose pull per nat matches AOT's default
    slope.

    Source:
        Mixtures of a preference, a quality and a generation loss: arXiv 2411.10442.

    Examples:
        >>> import torch
        >>> zero = torch.zeros(2)
        >>> parts = [{"objective": "dpo", "weight": 2.0}, {"objective": "hinge"}]
        >>> round(Mix(parts=parts)(SequenceScores.from_pairs(zero, zero, zero, zero)).loss.item(), 6)
        2.386294
    """

    parts: Sequence[Mapping[str, Any]] = option(
        _DEFAULT_PARTS, "list of mappings: objective, weight, and options of that objective"
    )

    name: ClassVar[str] = "mix"
    data: ClassVar[DataKind] = "paired"
    default_beta: ClassVar[float | None] = None
    source: ClassVar[str] = "weighted sums of losses as in arXiv 2411.10442; each part keeps its own defaults"
    uses_weights: ClassVar[bool] = True  # as far as its parts do

    def __post_init__(self) -> None:
        """Build the parts, which checks them."""
        if (
            isinstance(self.parts, str)
            or not isinstance(cast(object, self.parts), Sequence)
            or not self.parts
        ):
            raise ValueError(f"parts must be a list of at least one mapping, got {self.parts!r}")
        assert self.terms

    @cached_property
    def terms(self) -> tuple[tuple[float, Objective], ...]:
        """Weight and objective of each part."""
        return tuple(_build(part) for part in self.parts)

    @property
    def refuses_weights(self) -> str | None:
        """What the first of its parts says that refuses them."""
        return next((term.refuses_weights for _, term in self.terms if term.refuses_weights), None)

    @property
    def needs(self) -> DataKind:
        """Pairs if any part needs them."""
        return "paired" if any(term.needs == "paired" for _, term in self.terms) else "unpaired"

    @property
    def couples_batch(self) -> bool:
        """True if any part couples the batch."""
        return any(term.couples_batch for _, term in self.terms)

    @property
    def uses_margins(self) -> bool:
        """True if every part does."""
        return all(term.uses_margins for _, term in self.terms)

    def loss(self, scores: SequenceScores) -> ObjectiveOutput:
        """Weighted sum of the parts' losses."""
        metrics: dict[str, float | Tensor] = {}
        outputs = [(weight, term.name, term(scores)) for weight, term in self.terms]
        for position, (_, name, output) in enumerate(outputs):
            metrics[f"mix/{position}_{name}/loss"] = output.loss.detach()
            metrics.update({f"mix/{position}_{name}/{key}": value for key, value in output.metrics.items()})
        total = sum(
            (weight * output.loss for weight, _, output in outputs[1:]), outputs[0][0] * outputs[0][2].loss
        )
        return ObjectiveOutput(total, metrics)


def _build(part: object) -> tuple[float, Objective]:
    # The registry knows mix, and mix builds its parts from the registry.
    from distal.objectives.registry import get_objective

    if not isinstance(part, Mapping) or "objective" not in part:
        raise ValueError(f"each part of mix must be a mapping with the key 'objective', got {part!r}")
    options = {str(key): value for key, value in part.items()}
    name, weight = options.pop("objective"), options.pop("weight", 1.0)
    return check_positive(weight, "weight", meaning=f"of part {name!r}"), get_objective(name, **options)
