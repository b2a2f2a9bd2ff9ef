"""`distal evaluate generate`: its files, its refusals, and that it survives being killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.evaluation.fake_server import FakeServer

Run = Callable[..., Result]


@pytest.fixture
def generate(distal: Run, model_folder: Path, pairs_file: Path, tmp_path: Path) -> Run:
    """Runs the verb with what it needs; options replace that, None drops it."""

    def run(*words: object, **options: object) -> Result:
        settings: dict[str, object] = {
            "model": model_folder,
            "prompts": pairs_file,
            "output": tmp_path / "o.json",
            "max-new-tokens": 6,
        }
        given = [f"--{key}={value}" for key, value in (settings | options).items() if value is not None]
        return distal("evaluate", "generate", *given, *words)

    return run


def test_files_and_settings(generate: Run, pairs_file: Path, tmp_path: Path) -> None:
    result = generate("--json", "--temperature=1", "--seed=3", "--limit=7", name="tiny")
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout)
    assert settings == json.loads((tmp_path / "o.settings.json").read_text())
    assert settings["schema"] == "distal.generation/1"
    assert settings["n"] == 7
    assert settings["settings"]["temperature"] == 1
    assert settings["engine"]["dtype"] == "float32"
    assert len(settings["engine"]["fingerprint"]) == 64
    assert settings["versions"]["distal"]
    rows = json.loads((tmp_path / "o.json").read_text())
    prompts = [json.loads(line)["prompt"] for line in pairs_file.read_text().splitlines()]
    assert [row["instruction"] for row in rows] == list(dict.fromkeys(prompts))[:7]
    assert {row["generator"] for row in rows} == {"tiny"}
    assert {row["dataset"] for row in rows} == {"pairs"}
    assert "different prompts" in result.stderr
    again = generate("--temperature=1", "--seed=3", "--limit=7", "--batch-size=3", name="tiny")
    assert again.exit_code == 6
    assert "nothing was touched" in again.stderr
    other = tmp_path / "again.json"
    assert (
        generate(
            "--temperature=1", "--seed=3", "--limit=7", "--batch-size=3", name="tiny", output=other
        ).exit_code
        == 0
    )
    assert other.read_bytes() == (tmp_path / "o.json").read_bytes()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_and_started_again(generate: Run, tmp_path: Path) -> None:
    target, straight = tmp_path / "killed.json", tmp_path / "straight.json"
    process = multiprocessing.get_context("fork").Process(
        target=generate, args=("--batch-size=1",), kwargs={"output": target}
    )
    process.start()
    partial = target.with_name("killed.json.partial.jsonl")
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.stat().st_size):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    if not target.exists():
        result = generate(output=target)
        assert result.exit_code == 0, result.output
        assert "answers are there already" in result.stderr
    assert generate(output=straight).exit_code == 0
    assert target.read_bytes() == straight.read_bytes()
    assert not partial.exists()


def test_a_server_answers_and_the_key_stays_secret(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel = "sk-sentinel-2718281828"
    monkeypatch.setenv("MY_KEY", sentinel)
    with FakeServer(lambda asked: f"to {asked['messages'][-1]['content']}") as server:
        result = generate(
            "--api-key-env=MY_KEY",
            "--limit=3",
            engine="server",
            model="served",
            **{"base-url": server.url},
        )
        assert result.exit_code == 0, result.output
        assert server.headers[0]["Authorization"] == f"Bearer {sentinel}"
        assert server.requests[0]["max_tokens"] == 6
    assert json.loads((tmp_path / "o.json").read_text())[0]["output"].startswith("to ")
    assert sentinel not in result.output
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            assert sentinel.encode() not in (Path(folder) / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"engine": "llama"}, 2, "engine must be one of"),
        ({"engine": "server"}, 2, "--base-url"),
        ({"base-url": "http://x/v1"}, 2, "no effect with engine=transformers"),
        ({"engine": "vllm"}, 2, "vLLM, which is not installed"),
        ({"output": "answers.txt"}, 2, "ends in .json"),
        ({"prompts": "missing.jsonl"}, 3, "missing.jsonl"),
        ({"max-new-tokens": 127}, 3, "--on-long-prompts drop"),
        ({"batch-size": 0}, 2, "batch_size must be at least 1"),
        ({"model": "missing/folder/here"}, 4, "missing/folder/here"),
    ],
)
def test_refusals(generate: Run, tmp_path: Path, options: dict[str, Any], code: int, message: str) -> None:
    result = generate("--json", **options)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.glob("*.json")) == []


def test_long_prompts_may_be_left_out(generate: Run, tmp_path: Path, pairs_file: Path) -> None:
    result = generate("--on-long-prompts=drop", "--temperature=0", **{"max-new-tokens": 125})
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "o.json").read_text())
    # 128 places: a prompt may have three tokens, and these have one for each word.
    assert rows
    assert all(len(row["instruction"].split()) <= 3 for row in rows)
    assert json.loads((tmp_path / "o.settings.json").read_text())["prompts"]["dropped"]["prompt_too_long"]
