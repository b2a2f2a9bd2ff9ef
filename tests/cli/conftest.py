"""A tiny model, its tokenizer and small preference files on disk, and ways to run commands on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from distal.cli import app

QUIET = ("--report-to", "none", "--disable-tqdm")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., Any],
    word_tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A saved tiny Llama with its tokenizer."""
    path = tmp_path_factory.mktemp("model") / "tiny-llama"
    make_llama().save_pretrained(path)
    word_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def other_model_folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_llama: Callable[..., Any],
    word_tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A saved tiny Llama with other weights."""
    path = tmp_path_factory.mktemp("model") / "other-llama"
    make_llama(seed=1).save_pretrained(path)
    word_tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory, make_pairs: Callable[..., Any]) -> Path:
    """40 preference pairs."""
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", make_pairs(40))


@pytest.fixture(scope="session")
def samples_file(tmp_path_factory: pytest.TempPathFactory, make_samples: Callable[..., Any]) -> Path:
    """60 unpaired rows, two liked ones for each disliked one."""
    return write_rows(tmp_path_factory.mktemp("data") / "samples.jsonl", make_samples(60))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference scores go to a cache of the test's own, and nothing asks the network."""
    monkeypatch.setenv("DISTAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def distal() -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)

    return run


@pytest.fixture
def align(
    distal: Callable[..., Result], model_folder: Path, pairs_file: Path, tmp_path: Path
) -> Callable[..., Result]:
    """Runs `distal align` on the tiny model; options replace what every run needs, None drops it."""

    def run(*words: object, **options: object) -> Result:
        settings = {"model": model_folder, "data": pairs_file, "output_dir": tmp_path / "out", "max_steps": 2}
        settings |= {"global_batch_size": 8, "learning_rate": 1e-3} | options
        given = [f"--{key}={value}" for key, value in settings.items() if value is not None]
        return distal("align", *given, *QUIET, *words)

    return run


@pytest.fixture
def in_process() -> Callable[..., subprocess.Popen[str]]:
    """Starts the command line as a user would, in a process of its own."""

    def start(words: Sequence[object]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from distal.cli import main; main()", *(str(word) for word in words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return start
