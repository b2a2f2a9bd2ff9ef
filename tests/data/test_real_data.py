"""Real files, counted here once more in another way than the package counts them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distal.data import prepare_dataset
from tests.data.conftest import CHATML

MARK = "\n\nAssistant:"


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def shared_turns(chosen: str, rejected: str) -> str:
    """The prompt of two transcripts, found by comparing their turns instead of their characters."""
    left, right = chosen.split(MARK), rejected.split(MARK)
    n = 0
    while n < min(len(left), len(right)) - 1 and left[n] == right[n]:
        n += 1
    return MARK.join(left[:n]) + MARK


@pytest.mark.parametrize(
    ("name", "n_rows", "equal", "empty", "ragged"),
    [("helpful-base", 2354, 2, (120, 740, 1214, 2063), 9), ("helpful-rejection-sampled", 2749, 32, (), 3)],
)
def test_hh_transcripts(
    shared_data: Path,
    words: PreTrainedTokenizerFast,
    name: str,
    n_rows: int,
    equal: int,
    empty: tuple[int, ...],
    ragged: int,
) -> None:
    path = shared_data / "hh-rlhf" / f"{name}.jsonl.gz"
    dataset, rows = prepare_dataset(path, words, max_length=None), rows_of(path)
    report = dataset.report
    assert (report.n_read, len(rows)) == (n_rows, n_rows)
    assert (
        report.dropped["chosen_equals_rejected"].count
        == equal
        == sum(r["chosen"] == r["rejected"] for r in rows)
    )
    empty_count = report.dropped.get("empty_completion")
    assert (empty_count.first_rows if empty_count else ()) == empty
    assert len(dataset) == n_rows - equal - len(empty)
    own_marks = 0
    for unit, tokens in enumerate(dataset):
        row, text = rows[tokens[0].source_row], dataset.text(unit)
        prompt = shared_turns(row["chosen"], row["rejected"])
        own_marks += row["chosen"].rpartition(MARK)[0] != row["rejected"].rpartition(MARK)[0]
        assert text == {
            "prompt": prompt,
            "chosen": row["chosen"][len(prompt) :],
            "rejected": row["rejected"][len(prompt) :],
        }
    assert own_marks == ragged


def test_hh_tokens_are_those_of_the_whole_text(shared_data: Path, gpt2: PreTrainedTokenizerBase) -> None:
    path = shared_data / "hh-rlhf" / "helpful-base.jsonl.gz"
    dataset, rows = prepare_dataset(rows_of(path)[:200], gpt2, max_length=None), rows_of(path)
    for unit in dataset:
        for side, row in zip(("chosen", "rejected"), unit, strict=True):
            whole = rows[row.source_row][side]
            assert row.input_ids == [*gpt2(whole)["input_ids"], gpt2.eos_token_id]
            assert whole.startswith(str(gpt2.decode(list(row.input_ids[: row.prompt_length]))))


def test_reviews_are_truly_unpaired(shared_data: Path, gpt2: PreTrainedTokenizerBase) -> None:
    dataset = prepare_dataset(shared_data / "reviews" / "sentence-polarity.jsonl.gz", gpt2)
    assert (len(dataset), dataset.labels.sum()) == (10662, 5331)
    assert {row.prompt_length for row in dataset[0] + dataset[5000]} == {1}
    assert dataset[0][0].input_ids[0] == dataset[0][0].input_ids[-1] == gpt2.eos_token_id
    rest, held = dataset.shuffled_split(1000, seed=0)
    assert len(held) >= 1000
    assert not {held.text(i)["completion"] for i in range(len(held))} & {
        rest.text(i)["completion"] for i in range(len(rest))
    }


def test_ultrafeedback(shared_data: Path, words: PreTrainedTokenizerFast) -> None:
    report = prepare_dataset(shared_data / "ultrafeedback" / "train.jsonl.gz", words, max_length=None).report
    assert (report.n_read, report.n_kept) == (1000, 994)
    assert report.dropped["chosen_equals_rejected"].count == 4
    assert report.dropped["empty_completion"].first_rows == (478, 833)


@pytest.mark.parametrize(("name", "repeated", "opposed"), [("train", 340, 289), ("valid", 56, 13)])
def test_summaries_repeat_and_contradict(
    shared_data: Path, words: PreTrainedTokenizerFast, name: str, repeated: int, opposed: int
) -> None:
    path = shared_data / "summarize" / f"comparisons-{name}.jsonl.gz"
    dataset = prepare_dataset(path, words)
    rows = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows_of(path)]
    assert dataset.report.noted["duplicate"].count == repeated == len(rows) - len(set(rows))
    swapped = sum((p, r, c) in set(rows) for p, c, r in rows)
    assert dataset.report.noted["contradiction"].count == opposed == swapped
    rest, held = dataset.shuffled_split(0.1)
    prompts = [Counter(side.text(i)["prompt"] for i in range(len(side))) for side in (rest, held)]
    assert not set(prompts[0]) & set(prompts[1])


def test_judgements_of_experts(shared_data: Path, words: PreTrainedTokenizerFast) -> None:
    path = shared_data / "tulu1-human" / "unpaired.jsonl.gz"
    report = prepare_dataset(path, words, max_length=None).report
    rows = [(row["prompt"], row["completion"], row["label"]) for row in rows_of(path)]
    assert (report.n_read, report.n_desirable) == (2300, 1818)
    assert report.noted["duplicate"].count == 2300 - len(set(rows))
    assert report.noted["contradiction"].count == sum((p, c, not label) in set(rows) for p, c, label in rows)


def test_conversational_layouts_are_the_same_pairs(shared_data: Path) -> None:
    file = str(shared_data / "tokenizers" / "gpt2" / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    layouts = [
        prepare_dataset(shared_data / "formats" / f"layout_{name}.json", tokenizer, max_length=None)
        for name in ("ultrafeedback_binarized", "tulu3_preference")
    ]
    assert layouts[0].fingerprint == layouts[1].fingerprint
    plain = rows_of(shared_data / "ultrafeedback" / "train.jsonl.gz")[0]
    assert layouts[0].text(0) == {
        "prompt": f"<|im_start|>user\n{plain['prompt']}<|im_end|>\n<|im_start|>assistant\n",
        "chosen": f"{plain['chosen']}<|im_end|>\n",
        "rejected": f"{plain['rejected']}<|im_end|>\n",
    }
