"""HelpSteer 1, 2 and 3: graded answers, and pairs with a strength of preference."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, has, one, pair
from distal.data.formats.graded import graded_answer
from distal.data.prompts import user_turn
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference

__all__ = ["FORMATS"]

_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_SCALE, _STRENGTHS = (0, 4), (-3, 3)
_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def _turns(prompt: str) -> Conversation:
    """Messages of a prompt whose turns are separated by markers."""
    parts = _TURN.split(prompt)
    turns = user_turn(parts[0])
    for role, content in zip(parts[1::2], parts[2::2], strict=True):
        turns.append({"role": role.lower(), "content": content})
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        del turns[-1]  # an open marker at the end begins the answer
    return turns


def _read_graded(row: Row) -> Iterator[Made]:
    grades = {name: _grade(row, name) for name in _ATTRIBUTES if row.get(name) is not None}
    yield graded_answer(fields.string(row, "prompt"), fields.string(row, "response"), grades)


def _grade(row: Row, attribute: str) -> float:
    """A grade; of several annotators their mean."""
    found = row[attribute]
    if not isinstance(found, list) or not found:
        return fields.number(row, attribute, scale=_SCALE)
    marks: list[Any] = found
    return sum(fields.number({attribute: mark}, attribute, scale=_SCALE) for mark in marks) / len(marks)


def _read_second(row: Row) -> Preference:
    first, second = fields.string(row, "response_1"), fields.string(row, "response_2")
    return _by_strength(
        fields.string(row, "prompt"),
        first,
        second,
        fields.number(row, "preference_strength", scale=_STRENGTHS),
    )


def _read_third(row: Row) -> Preference:
    context = fields.text(row, "context")
    first, second = fields.string(row, "response1"), fields.string(row, "response2")
    strength = fields.number(row, "overall_preference", scale=_STRENGTHS)
    if isinstance(context, str):
        return _by_strength(context, first, second, strength)
    return _by_strength(context, _said(first), _said(second), strength)


def _said(answer: str) -> Conversation:
    return [{"role": "assistant", "content": answer}]


def _by_strength(prompt: Any, first: Any, second: Any, strength: float) -> Preference:
    """A pair; a negative strength means that the first answer is the better one."""
    if strength == 0:
        raise RowProblem("tie", "the preference is 0: neither is better", "nothing to mend")
    return pair(prompt, first, second) if strength < 0 else pair(prompt, second, first)


_LICENCE = "CC BY 4.0"

FORMATS = (
    Format(
        name="helpsteer",
        title="HelpSteer and HelpSteer2: prompt, response and five attributes",
        kind="graded",
        columns=frozenset({"prompt", "response", *_ATTRIBUTES}),
        recognise=has("prompt", "response", *_ATTRIBUTES),
        read=_read_graded,
        origin=Origin("Wang et al. 2023, arXiv 2311.09528, and 2024, arXiv 2406.08673", _LICENCE),
        grades={"helpfulness": 1.0, "correctness": 1.0, "coherence": 1.0},
        turns=_turns,
        note="complexity and verbosity describe the answer and do not count unless `grades` names them",
    ),
    Format(
        name="helpsteer2-preference",
        title="HelpSteer2 preferences: prompt, response_1, response_2, preference_strength",
        kind="paired",
        columns=frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
        recognise=has("prompt", "response_1", "response_2", "preference_strength"),
        read=one(_read_second),
        origin=Origin("Wang et al. 2024, arXiv 2410.01257", _LICENCE),
        turns=_turns,
    ),
    Format(
        name="helpsteer3",
        title="HelpSteer3 preferences: context, response1, response2, overall_preference",
        kind="paired",
        columns=frozenset({"context", "response1", "response2", "overall_preference"}),
        recognise=has("context", "response1", "response2", "overall_preference"),
        read=one(_read_third),
        origin=Origin("Wang et al. 2025, arXiv 2505.11475", _LICENCE),
    ),
)
