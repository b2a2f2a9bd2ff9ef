"""Pairs with a question: Orca-DPO in its layouts, Stack Exchange, Tulu 1's experts and the Tulu 3 mixture."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, attempt, has, one, pair, sample
from distal.data.formats.trl import EXTRAS, read_explicit
from distal.data.prompts import user_turn
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference
from distal.data.values import describe_json_type

__all__ = ["FORMATS"]

_QUESTIONS = ("question", "input")
_YES_NO = {"yes": True, "no": False}


def _recognise_orca(columns: Collection[str], rows: Sequence[Row]) -> bool:
    found = set(columns)
    others = {"prompt", "instruction", "conversations"}
    return {"system", "chosen", "rejected"} <= found and bool(found & set(_QUESTIONS)) and not found & others


def _read_orca(row: Row) -> Preference:
    if row.get("status") == "tie":
        raise RowProblem("tie", "status is 'tie': neither is better", "nothing to mend")
    question = "question" if "question" in row else "input"
    prompt: Conversation = user_turn(fields.string(row, question))
    system = row.get("system")
    if system not in (None, ""):
        prompt.insert(0, {"role": "system", "content": fields.string(row, "system")})
    sides: list[Any] = [
        [{"role": "assistant", "content": fields.string(row, side)}] for side in ("chosen", "rejected")
    ]
    return pair(prompt, *sides)


def _read_stack_exchange(row: Row) -> Preference:
    question, better, worse = (fields.string(row, name) for name in ("question", "response_j", "response_k"))
    return pair(question, better, worse)


def _read_experts(row: Row) -> Preference:
    verdict = fields.string(row, "preference")
    prompt, a, b = (fields.string(row, name) for name in ("prompt", "completion_a", "completion_b"))
    if verdict == "tie":
        raise RowProblem("tie", "preference is 'tie': neither is better", "nothing to mend")
    if verdict.startswith("a-is-"):
        return pair(prompt, a, b)
    if verdict.startswith("b-is-"):
        return pair(prompt, b, a)
    shown = describe_json_type(verdict)
    raise RowProblem("bad_label", f"preference is {shown}", "give a-is-better, b-is-better or tie")


def _read_acceptable(row: Row) -> Iterator[Made]:
    prompt = fields.string(row, "prompt")
    for side in ("a", "b"):

        def make(side: str = side) -> Made:
            column = f"completion_{side}_is_acceptable"
            verdict = fields.string(row, column)
            if verdict not in _YES_NO:
                raise RowProblem("bad_label", f"{column} is {describe_json_type(verdict)}", "give yes or no")
            return sample(prompt, fields.string(row, f"completion_{side}"), _YES_NO[verdict])

        yield attempt(make)


_TULU_1 = Origin("Wang et al. 2023, arXiv 2306.04751", "Apache-2.0")
_AB = ("prompt", "completion_a", "completion_b")
_ACCEPTABLE = ("completion_a_is_acceptable", "completion_b_is_acceptable")

FORMATS = (
    Format(
        name="orca-dpo",
        title="Orca-DPO pairs: system, question (or input), chosen, rejected",
        kind="paired",
        columns=frozenset({"system", "chosen", "rejected", "status", *_QUESTIONS}),
        recognise=_recognise_orca,
        read=one(_read_orca),
        origin=Origin(
            "Mukherjee et al. 2023, arXiv 2306.02707; https://huggingface.co/datasets/Intel/orca_dpo_pairs",
            "Apache-2.0",
        ),
    ),
    Format(
        name="stack-exchange",
        title="Stack Exchange answers: question, response_j (better), response_k",
        kind="paired",
        columns=frozenset({"question", "response_j", "response_k"}),
        recognise=has("question", "response_j", "response_k"),
        read=one(_read_stack_exchange),
        origin=Origin("https://huggingface.co/datasets/lvwerra/stack-exchange-paired", "CC BY-SA (texts)"),
    ),
    Format(
        name="tulu1-human",
        title="comparisons by experts: prompt, completion_a, completion_b, preference",
        kind="paired",
        columns=frozenset({*_AB, "preference"}),
        recognise=has(*_AB, "preference"),
        read=one(_read_experts),
        note="pairs by preference; tulu1-human-acceptable labels every completion by whether it is acceptable",
        origin=_TULU_1,
    ),
    Format(
        name="tulu1-human-acceptable",
        title="the same completions by whether they are acceptable",
        kind="unpaired",
        columns=frozenset({*_AB, *_ACCEPTABLE}),
        recognise=has(*_AB, *_ACCEPTABLE),
        read=_read_acceptable,
        origin=_TULU_1,
    ),
    Format(
        name="tulu3-preference",
        title="Tulu 3 preference mixture: id, source, prompt, chosen, rejected",
        kind="paired",
        columns=frozenset({"prompt", "chosen", "rejected"}) | EXTRAS,
        recognise=has(
            "id", "source", "prompt", "chosen", "rejected", where=lambda row: isinstance(row["chosen"], list)
        ),
        read=one(read_explicit),
        origin=Origin(
            "Lambert et al. 2024, arXiv 2411.15124", "ODC-By 1.0; parts of it under non-commercial terms"
        ),
    ),
)
