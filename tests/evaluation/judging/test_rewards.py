"""Judges that grade each answer: functions, and a reward model against one forward pass per text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from distal.errors import ConfigError, ModelError, NonFiniteError
from distal.evaluation.journal import Journal
from distal.evaluation.judging import FunctionJudge, JudgedPair, Pair, RewardModelJudge, judge_pairs
from distal.scoring.loading import load_reward_model


def verdicts(pairs: list[Pair], judge: Any, path: Path | None = None) -> list[JudgedPair]:
    return judge_pairs(pairs, judge, journal=None if path is None else Journal(path), progress=False)


def test_built_in_functions(pairs: list[Pair]):
    assert [one.verdict for one in verdicts(pairs[:4], FunctionJudge("length"))] == [
        "tie",
        "win",
        "loss",
        "tie",
    ]
    found = verdicts(pairs[:4], FunctionJudge("regex:^(short|xyz)$"))
    assert [one.verdict for one in found] == ["tie", "loss", "win", "loss"]


def test_a_function_of_the_users(pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_reward.py").write_text(
        "def shorter(prompt, answer):\n    return -len(answer)\n"
        "def broken(prompt, answer):\n    raise KeyError('x')\n"
        "def nothing(prompt, answer):\n    return float('nan')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert [one.verdict for one in verdicts(pairs[1:3], FunctionJudge("my_reward:shorter"))] == [
        "loss",
        "win",
    ]
    assert sys.path == before
    with pytest.raises(ConfigError, match=r"my_reward:broken failed on pair 1 .*KeyError"):
        verdicts(pairs[:3], FunctionJudge("my_reward:broken"))
    with pytest.raises(NonFiniteError, match="NaN on pair 1"):
        verdicts(pairs[:3], FunctionJudge("my_reward:nothing"))
    for name, says in (
        ("my_reward:absent", "no function absent"),
        ("my_reward:number", "no function number"),
        ("not_there:f", "cannot import not_there"),
        ("regex:(", "no regular expression"),
        ("size", "must be length"),
    ):
        with pytest.raises(ConfigError, match=says):
            FunctionJudge(name)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Any) -> Path:
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "num_labels": 1,
    }
    config = LlamaConfig(**settings)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reward")
    LlamaForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def word_pairs(make_pairs: Callable[..., Any]) -> list[Pair]:
    return [Pair(row["prompt"], row["chosen"].strip(), row["rejected"].strip()) for row in make_pairs(13)]


@pytest.mark.parametrize("pad", [0, None])
def test_a_reward_model_in_batches_grades_as_one_by_one(
    reward_folder: Path, word_tokenizer: Any, word_pairs: list[Pair], tmp_path: Path, pad: int | None
):
    model = load_reward_model(reward_folder)
    model.config.pad_token_id = pad
    judge = RewardModelJudge(model, word_tokenizer, name="r", fingerprint="f", batch_size=5)
    found = verdicts(word_pairs, judge, tmp_path / "j.jsonl")
    grades: list[list[float]] = []
    for pair in word_pairs:
        rows = [
            word_tokenizer(pair.prompt, text, return_tensors="pt")["input_ids"]
            for text in (pair.model, pair.baseline)
        ]
        with torch.no_grad():
            grades.append([float(model(input_ids=row).logits[0, 0]) for row in rows])
    assert [one.verdict for one in found] == ["win" if a > b else "loss" for a, b in grades]
    assert len({one.verdict for one in found}) == 2
    for one, expected in zip(found, grades, strict=True):
        assert [float(x) for x in one.orders[0][1].raw.split()] == pytest.approx(expected, abs=1e-5)

    class Asked(RewardModelJudge):
        def run(self, questions: Any, keep: Any, *, progress: bool) -> None:
            raise AssertionError("it was graded already")

    assert (
        verdicts(word_pairs, Asked(model, word_tokenizer, name="r", fingerprint="f"), tmp_path / "j.jsonl")
        == found
    )


def test_texts_that_are_too_long_for_a_reward_model(reward_folder: Path, word_tokenizer: Any):
    judge = RewardModelJudge(load_reward_model(reward_folder), word_tokenizer, name="r", fingerprint="f")
    with pytest.raises(ModelError, match="101 tokens, more than the 64"):
        verdicts([Pair("w3", "w4 " * 100, "w5")], judge)


def test_what_is_no_reward_model(make_llama: Callable[..., Any], word_tokenizer: Any, tmp_path: Path):
    make_llama().save_pretrained(tmp_path / "lm")
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_labels": 3,
    }
    config = LlamaConfig(**settings)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "three")
    for folder, says in (
        ("lm", "no reward model"),
        ("three", "3 outputs"),
        ("none/at/all", "no such reward model"),
    ):
        with pytest.raises(ModelError, match=says):
            load_reward_model(tmp_path / folder)
