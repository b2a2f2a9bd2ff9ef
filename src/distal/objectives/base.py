"""What every objective is: a frozen record of options that maps an optimizer batch's scores to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Literal

from distal.objectives.scores import ObjectiveOutput, SequenceScores

__all__ = ["DataKind", "Objective", "option"]

DataKind = Literal["paired", "unpaired"]
"""`paired`: needs pairs. `unpaired`: takes two samples of any counts, and pairs too."""


def option(default: object, help: str) -> Any:
    """Declare an option of an objective: its default and one line that says what it does."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A function of an optimizer batch's scores.

    The fields of a subclass are its options. `couples_batch` is False exactly when the loss is the
    (weighted) mean, over pairs, of a term that depends on that pair alone: then the batch may be cut up freely.
    """

    name: ClassVar[str]
    data: ClassVar[DataKind]
    default_beta: ClassVar[float | None]
    source: ClassVar[str]
    beta_source: ClassVar[str | None] = None
    uses_weights: ClassVar[bool] = False

    @property
    def needs(self) -> DataKind:
        """The kind of data that the objective needs."""
        return self.data

    @property
    @abstractmethod
    def couples_batch(self) -> bool:
        """Whether the loss of one unit depends on the others in the batch."""

    @property
    def refuses_weights(self) -> str | None:
        """Why samples cannot have weights; None where they can."""
        if self.uses_weights:
            return None
        return f"objective {self.name!r} does not use sample weights; build the scores without them"

    @property
    def uses_margins(self) -> bool:
        """Whether the loss of pairs depends on their scores through each pair's difference alone.

        Then `dL/d(rejected score) = -dL/d(chosen score)` in every pair, and a pair has one gradient, not two.
        """
        return False

    @abstractmethod
    def loss(self, scores: SequenceScores) -> ObjectiveOutput:
        """Loss and metrics of checked scores."""

    def __call__(self, scores: SequenceScores) -> ObjectiveOutput:
        """Loss and metrics of an optimizer batch.

        Args:
            scores: the scores of the whole optimizer batch.

        Raises:
            TypeError: not a `SequenceScores`.
            ValueError: the objective needs pairs and the scores are unpaired, or it does not use their
                weights.
        """
        _check_type(scores, self.name)
        if self.needs == "paired" and not scores.paired:
            raise ValueError(
                f"objective {self.name!r} needs pairs, got unpaired scores; use SequenceScores.from_pairs, "
                "or an objective for unpaired samples such as 'aot_unpaired'"
            )
        if scores.weighted and self.refuses_weights is not None:
            raise ValueError(self.refuses_weights)
        return self.loss(scores)

    @classmethod
    def options(cls) -> dict[str, Field[Any]]:
        """The options by name, in order."""
        return {item.name: item for item in fields(cls)}


def _check_type(scores: object, name: str) -> None:
    if not isinstance(scores, SequenceScores):
        raise TypeError(f"{name} takes SequenceScores, got {type(scores).__name__}")
