"""Graded answers: one per row, or several with their scores in lists; and the judgements of Arena-Hard."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, attempt, has
from distal.data.prompts import prompt_beside_messages, without_prompt
from distal.data.reasons import RowProblem
from distal.data.schemas import Answer, Preference, Text, checked

__all__ = ["FORMATS", "graded_answer"]

_ANSWERS = ("response", "completion")
_LISTS = ("completions", "responses")
_JUDGED = (1, 10)
_ARENA = ("question_id", "prompt", "model", "response", "score")


def graded_answer(prompt: Text, completion: Text, grades: Mapping[str, float]) -> Answer:
    """An answer with its grades, checked like any other completion."""
    if isinstance(prompt, str) and not isinstance(completion, str):
        prompt, completion = prompt_beside_messages(prompt, completion)
    completion = without_prompt(prompt, completion)
    checked(Preference(prompt, (completion,), (True,)))
    return Answer(prompt, completion, grades)


def _recognise_row(columns: Collection[str], rows: Sequence[Row]) -> bool:
    return {"prompt", "score"} <= set(columns) and any(name in columns for name in _ANSWERS)


def _recognise_lists(columns: Collection[str], rows: Sequence[Row]) -> bool:
    return {"prompt", "scores"} <= set(columns) and any(name in columns for name in _LISTS)


def _read_row(row: Row) -> Iterator[Made]:
    answer = fields.text(row, _present(row, _ANSWERS))
    yield graded_answer(fields.text(row, "prompt"), answer, {"score": fields.number(row, "score")})


def _read_judged(row: Row) -> Iterator[Made]:
    """A judge that gave no score is recorded as -1."""
    grades = {"score": fields.number(row, "score", scale=_JUDGED)}
    yield graded_answer(fields.text(row, "prompt"), fields.text(row, "response"), grades)


def _read_lists(row: Row) -> Iterator[Made]:
    column = _present(row, _LISTS)
    prompt, answers = fields.text(row, "prompt"), fields.list_of(row, column, "answers")
    scores = fields.list_of(row, "scores", "numbers")
    if len(answers) != len(scores):
        raise RowProblem(
            "bad_grade", f"{len(answers)} {column} with {len(scores)} scores", "give one score per answer"
        )
    for index, (answer, score) in enumerate(zip(answers, scores, strict=True)):
        names = f"{column}[{index}]", f"scores[{index}]"

        def make(parts: Row = {names[0]: answer, names[1]: score}, names: tuple[str, str] = names) -> Made:  # noqa: B006
            grades = {"score": fields.number(parts, names[1])}
            return graded_answer(prompt, fields.text(parts, names[0]), grades)

        yield attempt(make)


def _present(row: Row, names: tuple[str, ...]) -> str:
    return next((name for name in names if name in row), names[0])


FORMATS = (
    Format(
        name="arena-hard",
        title="answers that a judge scored from 1 to 10: prompt, response, score",
        kind="graded",
        columns=frozenset({"prompt", "response", "score"}),
        recognise=has(*_ARENA),
        read=_read_judged,
        origin=Origin("Li et al. 2024, arXiv 2406.11939", "Apache-2.0"),
        grades={"score": 1.0},
    ),
    Format(
        name="graded",
        title="graded answers: prompt, response (or completion), score",
        kind="graded",
        columns=frozenset({"prompt", "score", *_ANSWERS}),
        recognise=_recognise_row,
        read=_read_row,
        grades={"score": 1.0},
    ),
    Format(
        name="graded-lists",
        title="graded answers in lists: prompt, completions (or responses), scores",
        kind="graded",
        columns=frozenset({"prompt", "scores", *_LISTS}),
        recognise=_recognise_lists,
        read=_read_lists,
        grades={"score": 1.0},
    ),
)
