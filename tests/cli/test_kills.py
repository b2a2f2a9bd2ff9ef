"""Killed three times at random moments and resumed, a run ends as the one that nobody killed.

The moments and the comparison are those of `benchmarks/kill_and_resume.py`, which does it fifty times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill_and_resume import KINDS, differences, finish, one_life, prepare, run_whole

STEPS = 48
PLANNED = 6
"""Kills that the steps would do for: the last of three leaves steps enough for a slow machine to notice in time."""


@pytest.mark.slow
def test_three_kills_leave_weights_optimizer_certificate_and_health_as_they_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # for the processes, whose parent is started here
    prepare(tmp_path)
    run_whole(tmp_path, STEPS)
    lives = [one_life(tmp_path, number, seed=0, steps=STEPS, kills=PLANNED) for number in range(3)]
    assert [life["kind"] for life in lives] == list(KINDS[:3])
    assert lives[0]["left_half_written"] or lives[2]["left_half_written"], "no kill met a checkpoint"
    assert max(life["resumed_from"] for life in lives) > 0, "nothing was resumed"
    finish(tmp_path, STEPS)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    other = tmp_path / "killed" / "health.jsonl"
    other.write_bytes(other.read_bytes() + b"\n")
    assert differences(tmp_path / "whole", tmp_path / "killed") == ["health.jsonl"], "the oracle can fail"
