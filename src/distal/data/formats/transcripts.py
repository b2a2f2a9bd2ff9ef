"""HH-RLHF transcripts and the comparisons of summaries of Reddit posts."""

from __future__ import annotations

from collections.abc import Iterator

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, has, one, pair
from distal.data.formats.graded import graded_answer
from distal.data.formats.trl import EXTRAS, read_implicit
from distal.data.prompts import transcript_turns
from distal.data.reasons import RowProblem
from distal.data.schemas import USER_MARK, Preference

__all__ = ["FORMATS"]

SUMMARY_MARK = "TL;DR:"
_END = "<|endoftext|>"
_AXIS = (1, 7)
_AXES = ("overall", "accuracy", "coverage", "coherence")

_SUMMARIZE = Origin(
    "Stiennon et al. 2020, arXiv 2009.01325", "modified MIT; the posts CC BY 4.0 (Webis-TLDR-17)"
)


def _is_transcript(row: Row) -> bool:
    return all(
        isinstance(row[side], str) and row[side].startswith(USER_MARK) for side in ("chosen", "rejected")
    )


def _is_summary(row: Row) -> bool:
    sides = [row["prompt"], row["chosen"], row["rejected"]]
    return all(isinstance(text, str) for text in sides) and (
        sides[0].startswith("SUBREDDIT:") and all(text.startswith(SUMMARY_MARK) for text in sides[1:])
    )


def _read_summaries(row: Row) -> Preference:
    prompt, chosen, rejected = (fields.string(row, name) for name in ("prompt", "chosen", "rejected"))
    return pair(_post(prompt), _summary(chosen), _summary(rejected))


def _post(text: str) -> str:
    """A post as the prompt of its summary; the mark ends it, whatever the file has it at."""
    return f"{text.rstrip().removesuffix(SUMMARY_MARK).rstrip()}\n\n{SUMMARY_MARK}"


def _summary(text: str) -> str:
    # The public set has answers that run on behind the end-of-text mark, and one or two blanks in front.
    own = text.partition(_END)[0].strip().removeprefix(SUMMARY_MARK).strip()
    return f" {own}" if own else ""


def _query(row: Row) -> str:
    """The prompt of a record of the original release, in the layout of its authors."""
    info = fields.mapping(fields.value(row, "info", "give the post"), "info")
    if info.get("post") is None and info.get("article") is not None:
        return _post(fields.string(info, "article", "info.article"))
    post, title, forum = (
        fields.string(info, part, f"info.{part}") for part in ("post", "title", "subreddit")
    )
    return _post(f"SUBREDDIT: r/{forum}\n\nTITLE: {title}\n\nPOST: {post}")


def _read_comparison(row: Row) -> Preference:
    sides = [
        _summary(fields.string(fields.mapping(side, f"summaries[{i}]"), "text", f"summaries[{i}].text"))
        for i, side in enumerate(fields.list_of(row, "summaries", "two summaries"))
    ]
    if len(sides) != 2:
        raise RowProblem("bad_type", f"column summaries holds {len(sides)} summaries", "give two summaries")
    choice = fields.choice(row, "choice")
    return pair(_query(row), sides[choice], sides[1 - choice])


def _read_axes(row: Row) -> Iterator[Made]:
    summary = fields.mapping(fields.value(row, "summary", "give the graded summary"), "summary")
    axes = fields.mapping(summary.get("axes"), "summary.axes")
    grades = {
        axis: fields.number(axes, axis, f"summary.axes.{axis}", scale=_AXIS)
        for axis in _AXES
        if axes.get(axis) is not None
    }
    yield graded_answer(_query(row), _summary(fields.string(summary, "text", "summary.text")), grades)


FORMATS = (
    Format(
        name="hh-rlhf",
        title="HH-RLHF transcripts: chosen, rejected",
        kind="paired",
        columns=frozenset({"chosen", "rejected"}) | EXTRAS,
        recognise=has("chosen", "rejected", where=_is_transcript),
        read=one(read_implicit),
        origin=Origin("Bai et al. 2022, arXiv 2204.05862", "MIT"),
        turns=transcript_turns,
    ),
    Format(
        name="summarize-pairs",
        title="comparisons of summaries: prompt, chosen, rejected that begin with TL;DR:",
        kind="paired",
        columns=frozenset({"prompt", "chosen", "rejected"}),
        recognise=has("prompt", "chosen", "rejected", where=_is_summary),
        read=one(_read_summaries),
        note="TL;DR: ends the prompts, with one blank before each summary, wherever the file has it",
        origin=_SUMMARIZE,
    ),
    Format(
        name="summarize",
        title="comparisons of summaries as first released: info, summaries, choice",
        kind="paired",
        columns=frozenset({"info", "summaries", "choice"}),
        recognise=has("info", "summaries", "choice"),
        read=one(_read_comparison),
        origin=_SUMMARIZE,
    ),
    Format(
        name="summarize-axis",
        title="summaries graded on four axes: info, summary",
        kind="graded",
        columns=frozenset({"info", "summary"}),
        recognise=has("info", "summary", where=lambda row: isinstance(row["summary"], dict)),
        read=_read_axes,
        grades={"overall": 1.0},
        origin=_SUMMARIZE,
    ),
)
