"""UltraFeedback: records of four graded completions, and the binarized pairs made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, attempt, has, one
from distal.data.formats.graded import graded_answer
from distal.data.formats.trl import EXTRAS, read_explicit, read_implicit
from distal.data.schemas import Preference

__all__ = ["FORMATS"]

_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
_RATINGS = (1, 5)
_OVERALL = ("overall_score", "fine-grained_score")
_NOT_GRADED = (None, "", "N/A")
_SCORES = {"score_chosen", "score_rejected"}


def _read_record(row: Row) -> Iterator[Made]:
    prompt = fields.string(row, "instruction")
    for index, item in enumerate(fields.list_of(row, "completions", "completions")):
        where = f"completions[{index}]"

        def make(item: object = item, where: str = where) -> Made:
            completion = fields.mapping(item, where)
            return graded_answer(
                prompt, fields.string(completion, "response", f"{where}.response"), _grades(completion, where)
            )

        yield attempt(make)


def _grades(completion: Row, where: str) -> dict[str, float]:
    """Ratings are strings, and "N/A" where an aspect does not apply; some completions have none."""
    grades: dict[str, float] = {}
    annotations = fields.mapping(completion.get("annotations") or {}, f"{where}.annotations")
    for aspect in _ASPECTS:
        rating = fields.mapping(annotations.get(aspect) or {}, f"{where}.annotations.{aspect}")
        if rating.get("Rating") not in _NOT_GRADED:
            place = f"{where}.annotations.{aspect}.Rating"
            grades[aspect] = fields.number(rating, "Rating", place, scale=_RATINGS)
    for name in _OVERALL:
        if completion.get(name) not in _NOT_GRADED:
            grades[name] = fields.number(completion, name, f"{where}.{name}")
    return grades


def _recognise_binarized(columns: Collection[str], rows: Sequence[Row]) -> bool:
    return {"chosen", "rejected"} <= set(columns) and any(_scores_of(row) is not None for row in rows)


def _scores_of(row: Row) -> Row | None:
    """The object that holds both scores: the row, or its metadata."""
    metadata = row.get("metadata")
    for holder in (row, metadata):
        if isinstance(holder, dict) and all(holder.get(score) is not None for score in _SCORES):
            return holder
    return None


def _read_pair(row: Row) -> Preference:
    preference = (read_explicit if "prompt" in row else read_implicit)(row)
    scores = _scores_of(row)
    if scores is None or scores["score_chosen"] != scores["score_rejected"]:
        return preference
    return replace(preference, remarks=("tied_grades",))


def _read_two(row: Row) -> Iterator[Made]:
    # Answers have no weights and no tools: what is wrong with these of a pair is nothing to them.
    row = {column: value for column, value in row.items() if column not in EXTRAS}
    preference = (read_explicit if "prompt" in row else read_implicit)(row)
    scores = _scores_of(row) or {}
    for side, completion in zip(("score_chosen", "score_rejected"), preference.completions, strict=True):
        yield graded_answer(preference.prompt, completion, {"score": fields.number(scores, side)})


_ULTRAFEEDBACK = Origin("Cui et al. 2023, arXiv 2310.01377", "MIT")
_BINARIZED = Origin("Tunstall et al. 2023, arXiv 2310.16944", "MIT")
_BINARIZED_COLUMNS = frozenset({"prompt", "chosen", "rejected", "metadata", *_SCORES})

FORMATS = (
    Format(
        name="ultrafeedback",
        title="UltraFeedback records: instruction, completions",
        kind="graded",
        columns=frozenset({"instruction", "completions"}),
        recognise=has("instruction", "completions"),
        read=_read_record,
        grades=dict.fromkeys(_ASPECTS, 1.0),
        origin=_ULTRAFEEDBACK,
    ),
    Format(
        name="ultrafeedback-binarized",
        title="pairs with scores: chosen, rejected, score_chosen, score_rejected",
        kind="paired",
        columns=_BINARIZED_COLUMNS | EXTRAS,
        recognise=_recognise_binarized,
        read=one(_read_pair),
        note="the scores of both sides can be used as grades: format ultrafeedback-binarized-graded",
        origin=_BINARIZED,
    ),
    Format(
        name="ultrafeedback-binarized-graded",
        title="the same pairs as two graded answers each",
        kind="graded",
        columns=_BINARIZED_COLUMNS,
        recognise=_recognise_binarized,
        read=_read_two,
        grades={"score": 1.0},
        origin=_BINARIZED,
    ),
)
