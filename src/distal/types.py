"""Records that travel between the folders of Distal, with their shapes and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

__all__ = ["DataKind", "RowSource", "TokenRow"]

DataKind = Literal["paired", "unpaired"]
"""`paired`: (prompt, chosen, rejected). `unpaired`: (prompt, completion, label)."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One completion with its prompt, as token ids: the unit of every forward pass.

    Attributes:
        input_ids: token ids of the prompt followed by those of the completion (with its end-of-text token).
        prompt_length: how many leading tokens belong to the prompt, at least 1 (a model scores a token only
            from what precedes it) and less than `len(input_ids)`.
        desirable: True for a chosen or liked completion, False for a rejected or disliked one.
        unit: index, in the tokenised data set, of the sort unit the row belongs to: its pair, or the row itself
            when the data is unpaired.
        source_row: 0-based row of the user's data file, for messages.
        reference_score: summed log-probability of the completion under the reference, nats; NaN until known.
        completion_mask: for each completion token whether its log-probability is part of the score, at least one
            True; None where all are. What is left out (a further turn of the user, say) is read and not scored.
        weight: how much its unit counts in the loss, relative to the others of the optimizer batch; None counts 1. Both
            rows of a pair have the weight of the pair.
    """

    input_ids: Sequence[int]
    prompt_length: int
    desirable: bool
    unit: int
    source_row: int
    reference_score: float = float("nan")
    completion_mask: Sequence[bool] | None = None
    weight: float | None = None

    @property
    def completion_length(self) -> int:
        """Number of completion tokens, scored or not."""
        return len(self.input_ids) - self.prompt_length

    @property
    def scored_length(self) -> int:
        """Number of completion tokens whose log-probabilities make up the score.

        Examples:
            >>> TokenRow([1, 5, 6, 7], 1, True, 0, 0, completion_mask=[True, False, True]).scored_length
            2
        """
        return self.completion_length if self.completion_mask is None else sum(self.completion_mask)


@runtime_checkable
class RowSource(Protocol):
    """A tokenised preference data set, as the engine sees it.

    A unit is a list of rows: `[chosen, rejected]` when paired, `[row]` when unpaired. Rows are numbered unit by
    unit in that order, so that `n_rows` is `2 * len(self)` when paired.
    """

    kind: DataKind

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> list[TokenRow]: ...
