"""`distal align` under a launcher of several processes: one result, one voice, one way to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import Result

pytestmark = pytest.mark.slow


@pytest.fixture
def words(model_folder: Path, pairs_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Command lines of one run: 36 pairs to train on, 7 a step, so that a last step has a single pair."""

    def make(*more: str, out: str, **options: Any) -> list[str]:
        settings = {"model": model_folder, "data": pairs_file, "output-dir": tmp_path / out}
        settings |= {"eval-size": 4, "global-batch-size": 7, "learning-rate": 1e-3, "beta": 0.1}
        settings |= {"micro-batch-size": 2, "report-to": "none", "save-strategy": "no"} | options
        return ["align", *(f"--{key}={value}" for key, value in settings.items()), "--use-cpu", *more]

    return make


@pytest.fixture
def launched() -> Callable[..., subprocess.Popen[str]]:
    """Starts two processes of the command line with torchrun."""

    def start(words: list[str]) -> subprocess.Popen[str]:
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distal")
        return subprocess.Popen(
            [sys.executable, *launcher, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return start


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def distance(one: Path, two: Path) -> float:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_two_processes_end_with_the_weights_of_one(
    launched: Any, distal: Callable[..., Result], words: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert distal(*words(out="one")).exit_code == 0
    with launched(words(out="two")) as process:
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert distance(tmp_path / "one", tmp_path / "two") <= 1e-5
    certificates = [json.loads((tmp_path / run / "dominance.json").read_text()) for run in ("one", "two")]
    assert certificates[0]["mean_gap"] == pytest.approx(certificates[1]["mean_gap"], abs=1e-4)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["state"] == "finished"
    assert not (tmp_path / "two" / ".distal.lock").exists()
    # One voice: the first process tells everything, the second nothing.
    for line in ("36 pairs to train on", "Dominance certificate", "Model, tokenizer and model card"):
        assert stdout.count(line) == 1, stdout
    for bar in ("Loading weights: 100%", "scoring the policy"):
        assert stderr.count(bar) == 1, stderr
    assert "Traceback" not in stderr


def test_a_mistake_is_told_once(
    launched: Any, words: Callable[..., list[str]], pairs_file: Path, tmp_path: Path
) -> None:
    """One that every process makes, and one that only the first can see: its folder is occupied."""
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "notes.txt").write_text("mine")
    for made, code, told in (
        (words("--lerning-rate=1", out="new"), 2, "learning_rate"),
        (words(out="occupied"), 6, "is not empty and holds no run"),
    ):
        with launched(made) as process:
            _, stderr = process.communicate(timeout=300)
        assert process.returncode != 0
        ours = [line for line in stderr.splitlines() if line.startswith("Error")]
        assert len(ours) == 1, stderr
        assert told in ours[0]
        assert f"exitcode  : {code}" in stderr, stderr  # in the report that torchrun adds
        assert "distal/cli" not in stderr, "no traceback of ours"
    assert not (tmp_path / "new").exists()
    assert [entry.name for entry in occupied.iterdir()] == ["notes.txt"]


def test_an_interrupted_run_goes_on_with_any_number_of_processes(
    launched: Any, distal: Callable[..., Result], words: Callable[..., list[str]], tmp_path: Path
) -> None:
    steps = {"max-steps": 100, "save-strategy": "steps", "save-steps": 2, "save-total-limit": 3}
    out = tmp_path / "out"
    with launched(words("--disable-tqdm", out="out", **steps)) as process:
        end = time.monotonic() + 300
        while not (out / "checkpoint-4" / "trainer_state.json").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=180)
    assert stdout.count("Stopping: finishing this step") == 1, stdout
    assert stderr.count("with --resume goes on from checkpoint-") == 1, stderr
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"
    reached = max(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*"))
    assert 4 <= reached < 100
    # One process goes on where two left off, and ends where one alone ends.
    assert distal(*words("--disable-tqdm", "--resume", out="out", **steps)).exit_code == 0
    assert distal(*words("--disable-tqdm", out="whole", **steps)).exit_code == 0
    assert distance(out, tmp_path / "whole") <= 1e-5
