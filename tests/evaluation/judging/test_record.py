"""Credits, counts, cautions, and the JSON forms."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from distal.errors import DataError
from distal.evaluation.generation import ModelOutput, ModelOutputs
from distal.evaluation.judging import (
    FunctionJudge,
    Judge,
    JudgedPair,
    Judgement,
    Pair,
    WinRate,
    judge_pairs,
    judgement_lines,
    match_outputs,
    output_id,
    win_rate,
)


def outputs(name: str, prompts: str) -> ModelOutputs:
    return ModelOutputs(f"{name}.json", name, tuple(ModelOutput(p, f"{name} {p}", name, "") for p in prompts))


def one(*orders: tuple[bool, float | None], model: str = "a", baseline: str = "b") -> JudgedPair:
    return JudgedPair(
        Pair("p", model, baseline), tuple((first, Judgement(value, "raw")) for first, value in orders)
    )


@pytest.mark.parametrize(
    ("pair", "credit", "verdict"),
    [
        (one((True, 1.0), (False, 0.0)), 1.0, "win"),
        (one((True, 1.0), (False, 1.0)), 0.5, "tie"),
        (one((True, 0.0), (False, 0.5)), 0.25, "loss"),
        (one((True, 0.7), (False, 0.5)), 0.6, "win"),
        (one((True, 1.0), (False, None)), None, "failed"),
        (one(model="x", baseline="x"), 0.5, "tie"),
        (one(), None, "failed"),
    ],
)
def test_credits(pair: JudgedPair, credit: float | None, verdict: str):
    assert pair.credit == (None if credit is None else pytest.approx(credit))
    assert pair.verdict == verdict


def test_files_of_different_prompts_are_refused_with_counts():
    with pytest.raises(DataError, match=r"2 in both, 1 only in m.json, 2 only in b.json, such as 'a'"):
        match_outputs(outputs("m", "acd"), outputs("b", "xcdy"))
    found = match_outputs(outputs("m", "ac"), outputs("b", "ca"))
    assert [(pair.prompt, pair.model, pair.baseline) for pair in found] == [
        ("a", "m a", "b a"),
        ("c", "m c", "b c"),
    ]


def test_the_record_survives_json(pairs: list[Pair]):
    judge = FunctionJudge("length")
    made = win_rate(judge_pairs(pairs, judge, progress=False), judge, names=("m", "b"), settings={"seed": 0})
    content = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert content["schema"] == "distal.winrate/1"
    assert WinRate.from_dict(content) == made
    assert content["order_agreement"] is None
    for broken, says in (
        ({**content, "schema": "x/2"}, "x/2"),
        ({"schema": content["schema"]}, "incomplete"),
    ):
        with pytest.raises(DataError, match=says):
            WinRate.from_dict(broken)


def test_few_prompts_and_one_sided_verdicts_are_said(silent: Callable[..., Judge]):
    made = win_rate([one((True, 1.0))] * 19, silent(sees_order=False), names=("m", "b"))
    assert any("below 20" in note for note in made.notes)
    assert any("no width" in note for note in made.notes)
    made = win_rate(
        [one((True, 1.0))] * 10 + [one((True, 0.0))] * 10, silent(sees_order=False), names=("m", "b")
    )
    assert not made.notes


@pytest.mark.parametrize(
    ("preferences", "raws", "says"),
    [
        ([1.0, 1.0], ["A", "A"], "replied 'A' in all 20"),
        ([1.0, 1.0], ["A, since x", "A, since y"], "preferred the first answer in all 20"),
        ([0.0, 0.0], ["B, since x", "B, since y"], "preferred the second answer in all 20"),
        ([0.5, 0.5], ["TIE", "TIE"], "found a tie in all 20"),
        ([1.0, 0.0], ["m", "m"], "replied 'm' in all 20"),
        ([1.0, 0.0], ["A", "B"], None),
    ],
)
def test_a_judge_that_says_the_same_to_everything(
    silent: Callable[..., Judge], preferences: list[float], raws: list[str], says: str | None
):
    orders = tuple(
        (first, Judgement(value, raw))
        for first, value, raw in zip((True, False), preferences, raws, strict=True)
    )
    made = win_rate([JudgedPair(Pair("p", "a", "b"), orders)] * 10, silent(), names=("m", "b"))
    found = [note for note in made.notes if "in all 20" in note]
    assert (says is None) == (not found)
    if says is not None:
        assert says in found[0]


def test_lines_of_judgements(pairs: list[Pair]):
    odd = Pair("p\u2028\ud800", "same", "same")
    found = judge_pairs([*pairs[:2], odd], FunctionJudge("length"), progress=False)
    lines = [json.loads(line) for line in judgement_lines(found).splitlines()]
    assert [line["verdict"] for line in lines] == ["tie", "win", "tie"]
    assert lines[1]["model_output"] == output_id(pairs[1].model)
    assert lines[1]["orders"] == [
        {"first": "model", "verdict": "win", "preference": 1.0, "raw": "18 5", "reason": None}
    ]
    assert lines[2]["prompt"] == odd.prompt
