"""Stopping a run with signals, in processes of its own, and going on with it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

Start = Callable[[Sequence[object]], "subprocess.Popen[str]"]


@pytest.fixture
def words(model_folder: Path, pairs_file: Path, tmp_path: Path) -> Callable[..., list[object]]:
    """Command lines of one and the same run."""

    def make(*more: object, steps: int, out: str = "out") -> list[object]:
        settings = {
            "model": model_folder,
            "data": pairs_file,
            "output-dir": tmp_path / out,
            "max-steps": steps,
        }
        settings |= {"global-batch-size": 8, "learning-rate": 1e-3, "save-steps": 2, "report-to": "none"}
        return ["align", *(f"--{key}={value}" for key, value in settings.items()), "--disable-tqdm", *more]

    return make


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Waits until a file exists."""
    end = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def state_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run.json").read_text())


def test_interrupt_saves_and_tells_how_to_go_on(
    in_process: Start, words: Callable[..., list[object]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with in_process(words(steps=100_000)) as process:
        wait_for(out / "checkpoint-4" / "trainer_state.json", process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "saving a checkpoint" in stdout
    assert "--resume" in stderr
    assert state_of(out)["state"] == "interrupted"
    assert not (out / ".distal.lock").exists()
    # the step at which it stopped was saved, though it need not be one of every other step
    steps = [int(path.name.split("-")[1]) for path in out.glob("checkpoint-*")]
    assert f"from checkpoint-{max(steps)}" in stderr


def test_kill_and_resume_gives_the_run_that_was_not_killed(
    in_process: Start, distal: Callable[..., Result], words: Callable[..., list[object]], tmp_path: Path
) -> None:
    steps = 12
    whole = distal(*words(steps=steps, out="whole"))
    assert whole.exit_code == 0, whole.output
    out = tmp_path / "out"
    with in_process(words(steps=steps)) as process:
        wait_for(out / "checkpoint-4", process)  # as it appears, most likely half written
        process.kill()
    assert state_of(out)["state"] == "running"
    refused = distal(*words(steps=steps))
    assert refused.exit_code == 6
    assert "killed while it was running" in refused.stderr
    resumed = distal(*words("--resume", steps=steps))
    assert resumed.exit_code == 0, resumed.output
    assert "Going on from checkpoint-" in resumed.stdout
    assert state_of(out)["state"] == "finished"
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "out"))
    for name in first:  # two processes may sum with different numbers of threads
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6)


def test_killed_between_its_two_first_files_a_run_can_be_resumed(
    distal: Callable[..., Result], words: Callable[..., list[object]], tmp_path: Path
) -> None:
    """The state file is there, the configuration is not yet."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"state": "running", "process": 1}))
    resumed = distal(*words("--resume", steps=2))
    assert resumed.exit_code == 0, resumed.output
    assert "Going on from the beginning" in resumed.stdout
    assert state_of(out)["state"] == "finished"
    assert (out / "distal.yaml").exists()
