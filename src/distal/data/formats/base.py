"""What a format is, and the steps from columns to preferences that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from distal.data.prompts import prompt_beside_messages, user_turn, without_prompt
from distal.data.reasons import RowProblem
from distal.data.schemas import Answer, Conversation, Preference, Text, checked

__all__ = [
    "Format",
    "FormatKind",
    "Made",
    "Origin",
    "Row",
    "attempt",
    "has",
    "pair",
    "sample",
]

Row: TypeAlias = Mapping[str, Any]

FormatKind = Literal["paired", "unpaired", "graded"]

Made: TypeAlias = "Preference | Answer | RowProblem"
"""What one row yields, any number of times; a `RowProblem` stands for one part of the row that cannot be used."""

NOT_USED = {
    "ref_chosen_logps": "cached reference scores are not used; they are computed anew",
    "ref_rejected_logps": "cached reference scores are not used; they are computed anew",
    "ref_logps": "cached reference scores are not used; they are computed anew",
    "weight": "weights of rows are not used in this format",
    "image": "only text is used",
    "images": "only text is used",
}
"""Columns of any format whose absence from the result should not go unsaid."""

_WEIGHT = (
    "used: rows count in the loss by their weight, 1 where they have none (use_weights: false leaves it out)"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a format comes from.

    Attributes:
        citation: where the set or the layout is described.
        licence: of the public set, as its publisher states it; empty for a layout that anyone may fill.
    """

    citation: str = ""
    licence: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.licence, self.citation) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How the rows of one public data set, or of one tool, are read.

    Attributes:
        name: what `format` and `--format` call it.
        title: what it is, in a few words.
        kind: paired, unpaired, or graded (made into one of the others by `distal.data.grading`).
        columns: those that `read` looks at; of tables no others are decoded.
        recognise: whether rows are of this format, from their columns and the first few of them.
        read: what one row yields; raises `RowProblem` where that is nothing.
        origin: licence and citation of the public set that it is for.
        grades: attributes that count, and how much, unless the user says otherwise; of graded formats.
        gather: makes one row of several that follow each other, each with the number of its first; None where
            every row stands for itself.
        turns: how a prompt string is cut into messages where the user wants conversations.
        note: what a user of the set should know.
    """

    name: str
    title: str
    kind: FormatKind
    columns: frozenset[str]
    recognise: Callable[[Collection[str], Sequence[Row]], bool]
    read: Callable[[Row], Iterator[Made]]
    origin: Origin = Origin()
    grades: Mapping[str, float] = field(default_factory=dict[str, float])
    gather: Callable[[Iterator[tuple[int, Row]]], Iterator[tuple[int, Row]]] | None = None
    turns: Callable[[str], Conversation] = user_turn
    note: str = ""

    def notes(self, columns: Collection[str]) -> tuple[str, ...]:
        """Remarks about the data set as a whole."""
        remarks = NOT_USED | ({"weight": _WEIGHT} if "weight" in self.columns else {})
        said = tuple(f"column {name}: {remark}" for name, remark in remarks.items() if name in columns)
        return (*((self.note,) if self.note else ()), *said)


def has(
    *needed: str, where: Callable[[Row], bool] | None = None
) -> Callable[[Collection[str], Sequence[Row]], bool]:
    """A `recognise` that asks for columns, and for what the first rows hold in them.

    Args:
        *needed: columns that must be there.
        where: what must hold for all of the first rows that have these columns; one at least must.
    """

    def recognise(columns: Collection[str], rows: Sequence[Row]) -> bool:
        if not set(needed) <= set(columns):
            return False
        complete = [row for row in rows if all(row.get(column) is not None for column in needed)]
        return where is None or (bool(complete) and all(where(row) for row in complete))

    return recognise


def attempt(make: Callable[[], Made]) -> Made:
    """What `make` returns, or the problem that it raises: the other parts of the row are not lost."""
    try:
        return make()
    except RowProblem as problem:
        return problem


def pair(prompt: Text, chosen: Text, rejected: Text, **extras: Any) -> Preference:
    """A pair, checked; sides that repeat the prompt's messages lose them.

    Args:
        prompt: a string or messages; a string beside conversations becomes a message.
        chosen: the better answer.
        rejected: the worse answer.
        **extras: further attributes of `Preference`.
    """
    if isinstance(prompt, str) and not isinstance(chosen, str) and not isinstance(rejected, str):
        prompt = user_turn(prompt)
    sides = tuple(without_prompt(prompt, side) for side in (chosen, rejected))
    return checked(Preference(prompt, sides, (True, False), **extras))


def sample(prompt: Text, completion: Text, label: bool, **extras: Any) -> Preference:
    """An unpaired answer, checked.

    Args:
        prompt: a string or messages; a string beside a conversation becomes a message.
        completion: the answer.
        label: whether it is liked.
        **extras: further attributes of `Preference`.
    """
    if isinstance(prompt, str) and not isinstance(completion, str):
        prompt, completion = prompt_beside_messages(prompt, completion)
    return checked(Preference(prompt, (without_prompt(prompt, completion),), (label,), **extras))


def one(read: Callable[[Row], Made]) -> Callable[[Row], Iterator[Made]]:
    """A reader that yields one thing per row."""
    return _One(read)


@dataclass(frozen=True, slots=True)
class _One:
    """A class and no closure, because formats travel to other processes."""

    read: Callable[[Row], Made]

    def __call__(self, row: Row) -> Iterator[Made]:
        yield self.read(row)
