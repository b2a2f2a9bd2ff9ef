"""The file of a run's health: one record per step, whatever happens to the process."""

from __future__ import annotations

import json

import pytest

from distal.training import HealthThresholds, health_summary
from distal.training.health.findings import Finding
from distal.training.health.log import HealthLog, read_records


def write(path, *steps: int):
    log = HealthLog(path)
    log.begin(None)
    for step in steps:
        log.append({"step": step, "x": 0.1 * step})
    return log


def test_records_are_lines_of_json(tmp_path):
    path = tmp_path / "new" / "health.jsonl"
    write(path, 1, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == read_records(path)
    assert read_records(path)[1] == {"step": 2, "x": 0.2}


def test_a_new_run_starts_a_new_file(tmp_path):
    path = tmp_path / "health.jsonl"
    write(path, 1, 2)
    assert HealthLog(path).begin(None) == []
    assert path.read_bytes() == b""


@pytest.mark.parametrize("checkpoint", range(6))
def test_resuming_keeps_what_the_checkpoint_has_behind_it(tmp_path, checkpoint):
    """Steps that are taken again appear once."""
    path = tmp_path / "health.jsonl"
    write(path, *range(6))
    whole = path.read_bytes()
    log = HealthLog(path)
    assert [record["step"] for record in log.begin(checkpoint)] == list(range(checkpoint + 1))
    for step in range(checkpoint + 1, 6):
        log.append({"step": step, "x": 0.1 * step})
    assert path.read_bytes() == whole


def test_a_record_cut_off_by_a_kill_is_dropped(tmp_path):
    """At every byte of the last record."""
    path = tmp_path / "health.jsonl"
    write(path, 1, 2, 3)
    content = path.read_bytes()
    first_two = content.index(b'{"step": 3')
    for end in range(first_two, len(content)):
        path.write_bytes(content[:end])
        log = HealthLog(path)
        assert [record["step"] for record in log.begin(9)] == [1, 2]
        assert path.read_bytes() == content[:first_two]


def test_a_file_that_is_none_of_ours_is_not_read(tmp_path):
    path = tmp_path / "health.jsonl"
    path.write_text('{"step": 1}\n[1]\n{"step": 3}\n')
    assert read_records(path) == [{"step": 1}]


def test_no_number_is_written_that_json_does_not_know(tmp_path):
    log = write(tmp_path / "health.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        log.append({"step": 1, "x": float("nan")})


def test_summary(tmp_path):
    path = tmp_path / "health.jsonl"
    assert health_summary(path, HealthThresholds()) is None
    fall = Finding(guard="reward_fall", message="both fall", advice="Do less", value=2.0, threshold=1.0)
    stop = Finding(guard="non_finite", message="row 3 is NaN", severity="error")
    log = HealthLog(path)
    log.begin(None)
    log.append({"step": 1})
    log.append({"step": 2, "active": ["reward_fall"], "findings": [fall.to_json()]})
    log.append({"step": 3, "active": ["reward_fall"]})
    log.append({"step": 4})
    log.append({"step": 5, "findings": [stop.to_json()]})
    summary = health_summary(path, HealthThresholds())
    assert summary is not None
    assert [(o.finding, o.first_step, o.steps, o.last_step) for o in summary.occurrences] == [
        (fall, 2, 2, 3),
        (stop, 5, 1, 5),
    ]
    assert summary.lines() == [
        "Health: 2 findings.",
        "  reward_fall (warning; step 2, 2 steps until 3): both fall. Do less",
        "  non_finite (error; step 5): row 3 is NaN",
    ]


@pytest.mark.parametrize(
    ("window", "remark"), [(5, ""), (6, " (too few to judge: the guards look at 6 together)")]
)
def test_summary_of_a_healthy_run(tmp_path, window, remark):
    write(tmp_path / "health.jsonl", 1, 2, 3, 4, 5)
    summary = health_summary(tmp_path / "health.jsonl", HealthThresholds(window=window))
    assert summary is not None
    assert summary.lines() == [f"Health: nothing found in 5 steps{remark}."]
