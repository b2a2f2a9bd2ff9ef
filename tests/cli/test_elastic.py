"""The elastic recipe: a process dies, all start again from the last checkpoint, and nothing else changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import Result

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "launch" / "elastic.sh"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_process_that_dies_costs_only_the_steps_since_the_last_checkpoint(
    distal: Callable[..., Result], model_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """Killed is the first process, which holds the folder's lock and writes; two processes before and after."""
    settings = {"model": model_folder, "data": pairs_file, "eval-size": 4, "global-batch-size": 7}
    settings |= {"learning-rate": 1e-3, "beta": 0.1, "report-to": "none", "max-steps": 60, "save-steps": 4}
    words = [*(f"--{key}={value}" for key, value in settings.items()), "--use-cpu", "--disable-tqdm"]
    out = tmp_path / "out"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = {"NODES": "1", "JOB": "test", "HEAD": "localhost", "PORT": str(free_port()), "GPUS": "2"}
    with subprocess.Popen(
        ["bash", str(RECIPE), str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | run | {"PATH": programs, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    ) as job:
        end = time.monotonic() + 200
        while not (out / "checkpoint-8" / "trainer_state.json").exists():
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        killed = json.loads((out / "run.json").read_text())["process"]
        os.kill(killed, signal.SIGKILL)
        stdout, stderr = job.communicate(timeout=300)
    assert job.returncode == 0, stderr
    record = json.loads((out / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["process"] != killed
    assert len(record["resumed"]) == 1
    assert "Going on from checkpoint-" in stdout
    assert distal("align", *words, f"--output-dir={tmp_path / 'whole'}").exit_code == 0
    whole, restarted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert max((whole[name] - restarted[name]).abs().max().item() for name in whole) <= 1e-5
