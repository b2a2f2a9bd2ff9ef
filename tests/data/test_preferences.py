"""The tokenised data set: access, selection, splits, reference scores and the fingerprint."""

from __future__ import annotations

import hashlib
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from distal.data import OptimizerBatchSampler, TokenizedPreferences, collate_units, prepare_dataset
from distal.errors import ConfigError, DataError, NonFiniteError
from distal.types import RowSource, TokenRow
from tests.data.conftest import word_tokenizer

PAIRS = [
    {"prompt": "the film", "chosen": " is good", "rejected": " is bad"},
    {"prompt": "a film", "chosen": "", "rejected": " was"},
    {"prompt": "it", "chosen": " was good", "rejected": " was"},
    {"prompt": "the film", "chosen": " was good", "rejected": " bad"},
]
SAMPLES = [
    {"prompt": "", "completion": "good film", "label": True},
    {"prompt": "", "completion": "bad film", "label": 0},
    {"prompt": "it is", "completion": " bad", "label": False},
]


@pytest.fixture
def pairs(words: PreTrainedTokenizerFast) -> TokenizedPreferences:
    return prepare_dataset(PAIRS, words)


@pytest.fixture
def samples(words: PreTrainedTokenizerFast) -> TokenizedPreferences:
    return prepare_dataset(SAMPLES, words)


def test_pairs(pairs: TokenizedPreferences) -> None:
    # Vocabulary: <unk> <s> </s> a good bad film is it was the; row 1 is left out, its chosen side is empty.
    assert isinstance(pairs, RowSource)
    assert (pairs.kind, len(pairs), pairs.n_rows) == ("paired", 3, 6)
    chosen, rejected = pairs[1]
    assert (chosen.input_ids, chosen.prompt_length, chosen.desirable) == ([8, 9, 4, 2], 1, True)
    assert (rejected.input_ids, rejected.prompt_length, rejected.desirable) == ([8, 9, 2], 1, False)
    assert [(row.unit, row.source_row) for row in (chosen, rejected)] == [(1, 2), (1, 2)]
    assert np.isnan(chosen.reference_score)
    assert pairs.lengths.tolist() == [5, 5, 4, 3, 5, 4]
    assert pairs.completion_lengths.tolist() == [3, 3, 3, 2, 3, 2]
    assert pairs.text(1) == {"prompt": "it", "chosen": " was good", "rejected": " was"}
    with pytest.raises(AttributeError, match="a paired data set has no labels"):
        _ = pairs.labels


def test_samples(samples: TokenizedPreferences) -> None:
    assert (samples.kind, len(samples), samples.n_rows) == ("unpaired", 3, 3)
    assert samples.labels.tolist() == [True, False, False]
    assert [row.input_ids for unit in samples for row in unit] == [[2, 4, 6, 2], [2, 5, 6, 2], [8, 7, 5, 2]]
    assert samples.text(2) == {"prompt": "it is", "completion": " bad", "label": False}


def test_indices(pairs: TokenizedPreferences) -> None:
    assert pairs[-1][0].unit == 2
    assert pairs[np.int64(1)][0].unit == 1  # pyright: ignore[reportArgumentType]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of a data set of 3"):
            pairs[index]


def test_collation_keeps_the_order_of_rows(pairs: TokenizedPreferences) -> None:
    rows = collate_units([pairs[2], pairs[0]])
    assert all(isinstance(row, TokenRow) for row in rows)
    assert [(row.unit, row.desirable) for row in rows] == [(2, True), (2, False), (0, True), (0, False)]


def test_a_data_loader_hands_over_optimizer_batches(pairs: TokenizedPreferences) -> None:
    sampler = OptimizerBatchSampler(pairs, 2, seed=3)
    loader = DataLoader(pairs, batch_sampler=sampler, collate_fn=collate_units)
    found = [[(row.unit, row.desirable) for row in batch] for batch in loader]
    assert found == [[(unit, side) for unit in batch for side in (True, False)] for batch in sampler]
    assert sorted(unit for batch in found for unit, _ in batch) == [0, 0, 1, 1, 2, 2]


def test_the_fingerprint_is_that_of_what_the_model_sees(samples: TokenizedPreferences) -> None:
    def column(values: list[int], kind: str) -> bytes:
        return struct.pack(f"<{len(values)}{kind}", *values)

    expected = (
        b"distal-rows-1:unpaired:3" + column([4, 4, 4], "q") + column([1, 1, 2], "q") + column([1, 0, 0], "q")
    )
    expected += column([2, 4, 6, 2, 2, 5, 6, 2, 8, 7, 5, 2], "i")
    assert samples.fingerprint == hashlib.sha256(expected).hexdigest()
    assert pickle.loads(pickle.dumps(samples)).fingerprint == samples.fingerprint


def test_the_fingerprint_tells_data_sets_apart(
    words: PreTrainedTokenizerFast, pairs: TokenizedPreferences
) -> None:
    others = [pairs.select([0, 1]), pairs.select([2, 1, 0])]
    for change in (
        {"prompt": "a film"},
        {"chosen": " is bad", "rejected": " is good"},
        {"prompt": "the film is", "chosen": " good", "rejected": " bad"},
    ):
        others.append(prepare_dataset([{**PAIRS[0], **change}, *PAIRS[1:]], words))
    assert len({other.fingerprint for other in [pairs, *others]}) == 6
    # Neither the way to the rows nor their place in the source matters, nor scores.
    assert pairs.select([0, 1, 2]).fingerprint == pairs.fingerprint
    assert prepare_dataset([PAIRS[0], *PAIRS[2:]], words).fingerprint == pairs.fingerprint
    assert pairs.with_reference_scores(np.zeros(6)).fingerprint == pairs.fingerprint


def test_reference_scores_travel_with_their_rows(pairs: TokenizedPreferences) -> None:
    scored = pairs.with_reference_scores(-np.arange(6.0))
    assert scored.has_reference_scores
    assert not pairs.has_reference_scores
    picked = scored.select([2, 0])
    assert [row.reference_score for unit in picked for row in unit] == [-4.0, -5.0, 0.0, -1.0]
    assert [row.unit for unit in picked for row in unit] == [0, 0, 1, 1]
    assert picked.reference_scores is not None
    assert picked.reference_scores.tolist() == [-4.0, -5.0, 0.0, -1.0]
    assert picked.text(0) == pairs.text(2)


def test_reference_scores_are_checked(pairs: TokenizedPreferences) -> None:
    with pytest.raises(ValueError, match=r"each of 6 rows, got shape \(3,\)"):
        pairs.with_reference_scores(np.zeros(3))
    with pytest.raises(NonFiniteError, match="the reference scores row 2 with nan"):
        pairs.with_reference_scores([0, 0, 0, float("nan"), 0, 0])


def test_scores_cannot_be_changed_from_outside(pairs: TokenizedPreferences) -> None:
    scores = np.zeros(6)
    scored = pairs.with_reference_scores(scores)
    scores[:] = 9
    assert scored[0][0].reference_score == 0


PROMPTS = st.lists(st.sampled_from(["the", "a", "it", "was", ""]), min_size=2, max_size=14)


@settings(max_examples=40)
@given(prompts=PROMPTS, wanted=st.integers(1, 13), seed=st.integers(0, 3))
def test_splits_keep_prompts_together(prompts: list[str], wanted: int, seed: int) -> None:
    rows = [{"prompt": p, "chosen": f" good {i}", "rejected": f" bad {i}"} for i, p in enumerate(prompts)]
    dataset = prepare_dataset(rows, word_tokenizer(eos_token="</s>"))
    try:
        rest, held = dataset.shuffled_split(wanted, seed)
    except DataError:
        # Some whole groups of prompts with at least that many units would have been everything.
        assert wanted > len(rows) - max(max(prompts.count(p) if p else 1 for p in prompts), 1)
        return
    units = [[unit[0].source_row for unit in side] for side in (rest, held)]
    assert sorted(units[0] + units[1]) == list(range(len(rows)))
    sides = [{prompts[row] for row in side if prompts[row]} for side in units]
    assert not sides[0] & sides[1]
    largest = max((prompts.count(p) for p in prompts if p), default=1)
    assert wanted <= len(held) < wanted + largest
    again = dataset.shuffled_split(wanted, seed)[1]
    assert again.fingerprint == held.fingerprint


def test_what_is_asked_alike_is_held_out_together(byte_level: PreTrainedTokenizerFast) -> None:
    def prompt(number: int, way: int) -> list[dict[str, str]]:
        asked = f"What is the capital of country {number}?"
        asked = (asked, asked.upper(), asked.replace(" ", " \n"))[way]
        return [{"role": "system", "content": f"You are helper {way}."}, {"role": "user", "content": asked}]

    rows = [
        {
            "prompt": prompt(number, way),
            "chosen": [{"role": "assistant", "content": f"a{number}{way}"}],
            "rejected": [{"role": "assistant", "content": f"b{number}"}],
        }
        for number in range(10)
        for way in range(3)
    ]
    dataset = prepare_dataset(rows, byte_level)
    rest, held = dataset.shuffled_split(0.2)
    assert (len(rest), len(held)) == (24, 6)
    assert not {row // 3 for row in rest.source_rows.tolist()} & {
        row // 3 for row in held.source_rows.tolist()
    }
    # Chat or plain: the same prompts.
    plain = [{"prompt": row["prompt"][1]["content"], "chosen": " a", "rejected": " b"} for row in rows]
    assert prepare_dataset(plain, byte_level).prompt_keys.tolist() == dataset.prompt_keys.tolist()


def test_splits_by_fraction_and_seed(words: PreTrainedTokenizerFast) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "", "completion": f"good{'!' * i}", "label": i % 2} for i in range(40)
    ]
    words.add_tokens([row["completion"] for row in rows])
    dataset = prepare_dataset(rows, words)
    rest, held = dataset.shuffled_split(0.25, seed=1)
    assert (len(rest), len(held)) == (30, 10)
    assert dataset.shuffled_split(0.25, seed=2)[1].fingerprint != held.fingerprint


def test_equal_completions_without_a_prompt_stay_together(words: PreTrainedTokenizerFast) -> None:
    rows = [
        {"prompt": "", "completion": c, "label": label}
        for c in ("a", "good", "film")
        for label in (True, False)
    ]
    rest, held = prepare_dataset(rows, words).shuffled_split(1)
    assert len(held) == 2
    assert held.text(0)["completion"] == held.text(1)["completion"]
    assert len(rest) == 4


@pytest.mark.parametrize("size", [0, -1, 1.0, 0.0, 1.5, True, "3", float("nan")])
def test_split_sizes_that_cannot_be(pairs: TokenizedPreferences, size: Any) -> None:
    with pytest.raises(ConfigError, match="a whole number of units, or a fraction"):
        pairs.shuffled_split(size)


def test_splits_that_leave_nothing(pairs: TokenizedPreferences) -> None:
    for size in (3, 5):
        with pytest.raises(DataError, match="with 2 different prompts kept whole, one side would be empty"):
            pairs.shuffled_split(size)
