"""`distal evaluate winrate`: its files, its refusals, its cache, and the secrecy of keys."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import Result

from tests.evaluation.fake_server import FakeServer, status

Run = Callable[..., Result]
SENTINEL = "sk-sentinel-1414213562"


def write(path: Path, name: str, answers: list[str]) -> Path:
    rows = [
        {"instruction": f"w3 w{4 + i}", "output": text, "generator": name, "dataset": "d"}
        for i, text in enumerate(answers)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def winrate(distal: Run, tmp_path: Path) -> Run:
    """Runs the verb on two files of answers; options replace what it is given, None drops it."""
    ours = write(tmp_path / "a.json", "ours", ["w5 w6 w7", "w5", "w8", "w9 w9"] * 6)
    theirs = write(tmp_path / "b.json", "theirs", ["w5", "w5 w6", "w8", "w9"] * 6)

    def run(*words: object, **options: object) -> Result:
        settings: dict[str, object] = {"outputs": ours, "baseline": theirs, "output": tmp_path / "result"}
        given = [f"--{key}={value}" for key, value in (settings | options).items() if value is not None]
        return distal("evaluate", "winrate", *given, *words)

    return run


def length_judge(asked: dict[str, Any]) -> str:
    parts = asked["messages"][0]["content"].split("|")
    first, second = len(parts[1]), len(parts[2])
    return "A" if first > second else "B" if first < second else "TIE"


def test_files_and_numbers(winrate: Run, tmp_path: Path) -> None:
    result = winrate("--json", judge="function", function="length")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made == json.loads((tmp_path / "result" / "winrate.json").read_text())
    assert made["schema"] == "distal.winrate/1"
    assert (made["model"], made["baseline"], made["n"]) == ("ours", "theirs", 24)
    assert (made["wins"], made["losses"], made["ties"], made["failed"]) == (12, 6, 6, 0)
    assert made["win_rate"] == pytest.approx(15 / 24)
    assert made["interval"][0] < 15 / 24 < made["interval"][1]
    assert made["length_controlled"] is None
    assert made["length_adjusted"]["win_rate"] < made["win_rate"]
    assert made["versions"]["distal"]
    lines = (tmp_path / "result" / "judgements.jsonl").read_text().splitlines()
    assert len(lines) == 24
    again = winrate(judge="function", function="length")
    assert again.exit_code == 6
    assert "nothing was touched" in again.stderr
    table = winrate("--overwrite", judge="function", function="length")
    assert table.exit_code == 0, table.output
    assert "ours against theirs" in table.stdout
    assert "0.625" in table.stdout


def test_a_server_is_asked_once_and_its_key_stays_secret(
    winrate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", SENTINEL)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{{ instruction }}|{{ output_a }}|{{ output_b }}")
    with FakeServer(length_judge, [status(503, f"busy, {SENTINEL}")]) as server:
        options: dict[str, object] = {
            "judge": "server",
            "judge-model": "big",
            "base-url": server.url,
            "api-key-env": "MY_KEY",
            "prompt": prompt,
        }
        short = winrate("--max-requests=10", "--concurrency=1", **options)
        assert short.exit_code == 8
        assert "budget of 10 requests" in short.stderr
        assert not (tmp_path / "result").exists()
        result = winrate("--json", **options)
        assert result.exit_code == 0, result.output
        assert "9 of 36 judgements are there already" in result.stderr
        assert len(server.requests) == 37
        assert server.headers[0]["Authorization"] == f"Bearer {SENTINEL}"
        made = json.loads(result.stdout)
        assert made["usage"]["requests"] == 27
        assert made["judge"]["prompt"] == prompt.read_text()
        refused = winrate("--overwrite", **options | {"judge-model": "other"}, retries=0)
        assert refused.exit_code == 0
        server.fail(*[status(401, f"no such key {SENTINEL}")] * 50)
        failed = winrate("--overwrite", **options | {"judge-model": "third"})
        assert failed.exit_code == 8
        assert "MY_KEY" in failed.stderr
    assert (made["wins"], made["losses"], made["order_agreement"]) == (12, 6, 1)
    for outcome in (short, result, failed):
        assert SENTINEL not in outcome.output
    files = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert any(path.name == "judgements.jsonl" and "cache" in str(path) for path in files)
    for path in files:
        assert SENTINEL.encode() not in path.read_bytes(), path


def test_a_reward_model_judges(winrate: Run, tmp_path: Path, word_tokenizer: PreTrainedTokenizerFast) -> None:
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "num_labels": 1,
        "initializer_range": 0.5,
    }
    config = LlamaConfig(**settings)
    torch.manual_seed(0)
    folder = tmp_path / "reward"
    LlamaForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    result = winrate("--json", judge="reward-model", **{"judge-model": folder})
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["order_agreement"] is None
    assert made["ties"] == made["identical"] == 6
    assert len(made["judge"]["fingerprint"]) == 64


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"judge": "jury"}, 2, "judge must be one of"),
        ({"judge": "server"}, 2, "needs --base-url and --judge-model"),
        ({"judge": "function"}, 2, "needs --function"),
        ({"judge": "function", "function": "length", "base-url": "http://x/v1"}, 2, "base_url has no effect"),
        ({"judge": "function", "function": "length", "orders": "none"}, 2, "orders must be one of"),
        ({"judge": "function", "function": "length", "confidence": 2}, 2, "confidence must lie"),
        ({"judge": "function", "function": "length", "outputs": "missing.json"}, 3, "missing.json"),
        ({"judge": "reward-model", "judge-model": "missing/folder/here"}, 4, "missing/folder/here"),
        (
            {"judge": "server", "judge-model": "m", "base-url": "http://localhost/v1", "request": "[]"},
            2,
            "request must be a JSON object",
        ),
        (
            {"judge": "server", "judge-model": "m", "base-url": "http://localhost/v1", "max-cost": 1},
            2,
            "--input-price",
        ),
        (
            {"judge": "server", "judge-model": "m", "base-url": "http://localhost/v1", "prompt": "none.txt"},
            2,
            "cannot read none.txt",
        ),
    ],
)
def test_refusals(winrate: Run, tmp_path: Path, options: dict[str, Any], code: int, message: str) -> None:
    result = winrate("--json", **options)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "result").exists()


def test_files_of_other_prompts(winrate: Run, tmp_path: Path) -> None:
    other = write(tmp_path / "c.json", "theirs", ["w5"] * 25)
    result = winrate(judge="function", function="length", baseline=other)
    assert result.exit_code == 3
    assert "24 in both, 0 only in a.json, 1 only in c.json" in result.stderr
