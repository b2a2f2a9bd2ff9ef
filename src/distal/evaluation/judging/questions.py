"""What a judge is asked, what it says, and the judges' common form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from distal.errors import DataError
from distal.evaluation.generation import ModelOutputs

__all__ = [
    "Judge",
    "JudgedPair",
    "Judgement",
    "KeepJudgement",
    "Pair",
    "Question",
    "Verdict",
    "match_outputs",
]

Verdict = Literal["win", "loss", "tie", "failed"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt.

    Attributes:
        prompt: the prompt.
        model: answer of the model that is evaluated.
        baseline: answer that it is compared with.
    """

    prompt: str
    model: str
    baseline: str


@dataclass(frozen=True, slots=True)
class Question:
    """One comparison, in the order in which the judge sees the answers.

    Attributes:
        pair: index of the pair.
        prompt: the prompt.
        first: the answer that is shown first.
        second: the other one.
        model_first: whether the first is the model's.
    """

    pair: int
    prompt: str
    first: str
    second: str
    model_first: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says about a question.

    Attributes:
        preference: for the first answer, from 0 (the second is better) over 1/2 (a tie) to 1; None for no verdict.
        raw: the judge's words or numbers.
        reason: why there is no verdict; None where there is one.
    """

    preference: float | None
    raw: str
    reason: str | None = None


KeepJudgement = Callable[[Question, Judgement], None]
"""Stores a judgement; called as soon as it is there, possibly by several threads."""


class Judge(Protocol):
    """Compares answers.

    Attributes:
        sees_order: whether the judge is shown both answers one after the other, so that their order may matter; a
            judge that grades each answer on its own is asked once.
        keeps_order: whether the first answer of a question is also shown first, so that position bias can be told.
        stored: whether its judgements are worth keeping for another run.
    """

    sees_order: bool
    keeps_order: bool
    stored: bool

    def describe(self) -> dict[str, Any]:
        """Everything that a judgement depends on beside the question; no secrets."""
        ...

    def run(self, questions: Sequence[Question], keep: KeepJudgement, *, progress: bool) -> None:
        """Judge every question, and hand each judgement to `keep` at once."""
        ...


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair with what was said about it.

    Attributes:
        pair: the two answers.
        orders: the judgements with whether the model's answer came first; empty where both answers are the same.
    """

    pair: Pair
    orders: tuple[tuple[bool, Judgement], ...]

    @property
    def identical(self) -> bool:
        """Whether both answers are the same text, which is a tie without a question."""
        return self.pair.model == self.pair.baseline

    @property
    def credit(self) -> float | None:
        """The mean preference for the model over the orders, from 0 to 1; None where an order has no verdict.

        A pair that was judged in one order only would count with the bias that both orders are asked to remove.
        """
        if self.identical:
            return 0.5
        found = [model_preference(first, judgement) for first, judgement in self.orders]
        whole = [value for value in found if value is not None]
        return sum(whole) / len(whole) if whole and len(whole) == len(found) else None

    @property
    def verdict(self) -> Verdict:
        """The credit in a word."""
        credit = self.credit
        if credit is None:
            return "failed"
        return "win" if credit > 0.5 else "loss" if credit < 0.5 else "tie"


def model_preference(model_first: bool, judgement: Judgement) -> float | None:
    """The preference for the model's answer, wherever it stood."""
    value = judgement.preference
    return value if value is None or model_first else 1 - value


def match_outputs(model: ModelOutputs, baseline: ModelOutputs) -> list[Pair]:
    """Answers to the same prompts, in the order of the model's file.

    Raises:
        DataError: the files answer different prompts.

    Examples:
        >>> from distal.evaluation.generation import ModelOutput
        >>> a, b = (ModelOutputs(n, n, (ModelOutput("p", f"says {n}", n, ""),)) for n in "ab")
        >>> match_outputs(a, b)
        [Pair(prompt='p', model='says a', baseline='says b')]
    """
    ours = {row.instruction: row.output for row in model.rows}
    theirs = {row.instruction: row.output for row in baseline.rows}
    only_ours = [prompt for prompt in ours if prompt not in theirs]
    only_theirs = [prompt for prompt in theirs if prompt not in ours]
    if only_ours or only_theirs:
        shown = (only_ours or only_theirs)[0][:60]
        raise DataError(
            f"{model.name} and {baseline.name} answer different prompts: {len(ours) - len(only_ours)} in both, "
            f"{len(only_ours)} only in {model.name}, {len(only_theirs)} only in {baseline.name}, such as {shown!r}. "
            "Have both models answer the same file of prompts."
        )
    return [Pair(prompt, output, theirs[prompt]) for prompt, output in ours.items()]
