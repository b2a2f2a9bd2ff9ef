"""What a check says of data whose faults are known."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from distal.data import open_preferences, prepare_dataset
from distal.data.checking import CheckSettings, DataCheck, check_data
from distal.data.lengths import compare_lengths
from distal.errors import DataError
from distal.report.data_terminal import sample_text

SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@given(SIZES, SIZES)
def test_lengths_are_compared_by_counting(liked: list[int], disliked: list[int]) -> None:
    found = compare_lengths(liked, disliked, unit="tokens", paired=False)
    assert found is not None
    wins = [(u > v) + (u == v) / 2 for u, v in itertools.product(liked, disliked)]
    assert found.auc == pytest.approx(sum(wins) / len(wins))
    assert found.curve[0][0] == min(liked)
    assert found.curve[1][-1] == max(disliked)
    for level, quantile in zip(found.levels, found.liked, strict=True):
        # The least value that a share of `level` does not exceed.
        assert sum(x <= quantile for x in liked) / len(liked) >= level - 1e-12
        assert quantile == min(liked) or sum(x < quantile for x in liked) / len(liked) < level
    if sorted(liked) == sorted(disliked):
        assert found.violation_ratio is None
    if min(liked) > max(disliked):
        assert found.violation_ratio == 0


def test_pairs_are_compared_pair_by_pair() -> None:
    found = compare_lengths([1, 5, 3], [2, 4, 3], unit="tokens", paired=True)
    assert found is not None
    assert found.longer_chosen == 0.5
    assert compare_lengths([], [1], unit="tokens", paired=False) is None


def test_a_bias_is_one_that_chance_does_not_explain() -> None:
    few = compare_lengths([3, 4], [1, 2], unit="tokens", paired=False)
    many = compare_lengths([3, 4] * 20, [1, 2] * 20, unit="tokens", paired=False)
    equal = compare_lengths([1, 2] * 500, [1, 2] * 500, unit="tokens", paired=False)
    assert few is not None
    assert many is not None
    assert equal is not None
    assert (few.is_biased, many.is_biased, equal.is_biased) == (False, True, False)


def check(rows: Any, held_out: Any = (), **settings: Any) -> DataCheck:
    sources = tuple(open_preferences(data, name="held out") for data in held_out)
    return check_data(open_preferences(rows, name="rows"), CheckSettings(held_out=sources, **settings))


def codes(found: DataCheck) -> dict[str, str]:
    return {finding.code: finding.level for finding in found.findings}


def pairs(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(n)]


def test_nothing_to_complain_of() -> None:
    found = check(pairs(120))
    assert (found.verdict, found.findings, found.n_prompts) == ("usable", (), 120)
    assert found.samples[0].prompt == "question 0"
    assert [sample.desirable for sample in found.samples] == [True, False, True, False]
    assert json.loads(json.dumps(found.to_dict()))["schema"] == "distal.data_check/1"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (pairs(20), {"few": "warning"}),
        (pairs(100) + [{**row, "rejected": row["chosen"]} for row in pairs(12)], {"dropped": "warning"}),
        (pairs(100) + pairs(3), {"duplicate": "note"}),
        (
            pairs(100) + [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in pairs(3)],
            {"contradiction": "warning"},
        ),
        ([{**row, "chosen": "long " * 9} for row in pairs(100)], {"length_bias": "warning"}),
        (
            [{"prompt": str(i), "completion": f"{i:04}", "label": i > 3} for i in range(200)],
            {"imbalance": "warning"},
        ),
        ([{"prompt": str(i), "completion": "c", "label": True} for i in range(200)], {"one_label": "error"}),
        ([{"prompt": "p", "chosen": "a", "rejected": "a"}], {"empty": "error"}),
        (
            [{**row, "score_chosen": 1.0, "score_rejected": 1} for row in pairs(100)],
            {"tied_grades": "note"},
        ),
    ],
)
def test_each_fault_is_found(rows: Any, expected: dict[str, str]) -> None:
    found = check(rows)
    assert codes(found) == expected
    verdict = {"error": "not_usable", "warning": "usable_with_warnings", "note": "usable"}
    assert found.verdict == verdict[next(iter(expected.values()))]


def test_held_out_prompts_that_are_trained_on() -> None:
    asked = "please explain to me at length what the number {} means in this long and tedious sentence"
    rows = [{**row, "prompt": asked.format(10000 + i)} for i, row in enumerate(pairs(120))]
    held_out = [{**row, "prompt": asked.format(10000 + i)} for i, row in enumerate(pairs(3))]
    near = [{**held_out[0], "prompt": asked.format(77777)}]
    other = [{**held_out[0], "prompt": "something else altogether, which nobody has asked before"}]
    found = check(rows, [held_out + near + other, other])
    assert codes(found) == {"leakage": "warning", "near_leakage": "warning"}
    assert [(o.n_prompts, o.n_exact, o.n_near) for o in found.overlaps] == [(5, 3, 1), (1, 0, 0)]


def test_held_out_answers_at_a_threshold_have_prompts_too() -> None:
    def graded(scores: dict[int, int]) -> list[dict[str, Any]]:
        asked = "tell me something of interest about the topic of number {}"
        return [
            {"prompt": asked.format(i), "response": f"r{i}", "score": score} for i, score in scores.items()
        ]

    # All of 1, 2 and 3 are at the median of the held-out data; by that of the others, they are liked.
    found = check(graded({i: i for i in range(1, 7)}), [graded({1: 5, 2: 5, 3: 5, 8: 9})])
    assert [(o.n_prompts, o.n_exact, o.exact_rows) for o in found.overlaps] == [(4, 3, (0, 1, 2))]


def test_tokens_take_the_place_of_characters(byte_level: PreTrainedTokenizerFast) -> None:
    rows = [{**row, "chosen": "hello world"} for row in pairs(110)] + [
        {"prompt": "x" * 50, "chosen": "a", "rejected": "b"}
    ]
    source, tokenized = open_preferences(rows), prepare_dataset(rows, byte_level, max_length=30)
    found = check_data(source, CheckSettings(samples=2), tokenized=tokenized, tokenizer=byte_level)
    assert found.lengths is not None
    assert found.lengths.unit == "tokens"
    assert found.report.dropped["prompt_too_long"].count == 1
    assert codes(found)["template_unused"] == "note"
    for sample, row in zip(found.samples, tokenized[0], strict=True):
        assert sample.tokens == (row.prompt_length, row.completion_length)
        assert sample.prompt + sample.completion == byte_level.decode(list(row.input_ids))
        assert list(sample.boundary[1]) == byte_level.convert_ids_to_tokens(
            list(row.input_ids[row.prompt_length :])[:12]
        )


def test_an_error_of_tokenization_is_a_finding() -> None:
    found = check_data(open_preferences(pairs(110)), tokenized=DataError("row 3 is a conversation"))
    assert codes(found) == {"tokenization": "error"}
    assert found.verdict == "not_usable"


def test_samples_show_what_is_scored(byte_level: PreTrainedTokenizerFast) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    dialogue = [turn("assistant", "the film"), turn("user", "is it?"), turn("assistant", "good")]
    rows = [
        {"prompt": [turn("user", "hello")], "completion": dialogue, "label": True},
        {"prompt": [turn("user", "hello")], "completion": [turn("assistant", "bad")], "label": False},
    ]
    tokenized = prepare_dataset(rows, byte_level, loss_on="assistant_turns")
    found = check_data(open_preferences(rows), tokenized=tokenized, tokenizer=byte_level)
    liked, disliked = found.samples
    assert [scored for _, scored in liked.pieces] == [True, False, True]
    assert "".join(text for text, _ in liked.pieces) == liked.completion
    assert "is it?" in liked.pieces[1][0]
    assert liked.tokens is not None
    assert sum(liked.tokens) == len(tokenized[0][0].input_ids)
    assert liked.tokens[1] == tokenized[0][0].scored_length
    assert disliked.pieces == ((disliked.completion, True),)
    shown = "\n".join(str(line) for line in sample_text(liked))
    assert f"{liked.tokens[0]} tokens read and {liked.tokens[1]} scored" in shown
