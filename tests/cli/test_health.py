"""The guards as a user of `distal align` meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml
from typer.testing import Result

Run = Callable[..., Result]


def steps_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_the_summary_says_that_nothing_was_found(align: Run, tmp_path: Path) -> None:
    result = align(max_steps=6, learning_rate=1e-6, health="{window: 5}")
    assert result.exit_code == 0, result.output
    assert "Health: nothing found in 6 steps.\n" in result.stdout
    assert steps_of(tmp_path / "out" / "health.jsonl") == [1, 2, 3, 4, 5, 6]


def test_the_summary_lists_what_was_found(align: Run, tmp_path: Path) -> None:
    result = align(max_steps=2, sort_group=1)
    assert "Health: 1 finding." in result.stdout
    assert "sort_group_bias (warning; step 1, 2 steps until 2): sort groups hold one sample" in result.stdout
    assert "Leave sort_group unset" in result.stdout


def test_guards_can_be_switched_off(align: Run, tmp_path: Path) -> None:
    result = align("--no-health")
    assert result.exit_code == 0, result.output
    assert "Health" not in result.stdout
    assert not (tmp_path / "out" / "health.jsonl").exists()


def test_thresholds_stand_in_the_yaml_file_and_are_recorded(align: Run, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("health:\n  window: 5\n  reward_fall: null\n  probe_every: 1\n  probe_size: 2\n")
    result = align("--config", config, max_steps=1)
    assert result.exit_code == 0, result.output
    assert "too few to judge: the guards look at 5 together" in result.stdout
    assert steps_of(tmp_path / "out" / "health.jsonl") == [0, 1]
    recorded = yaml.safe_load((tmp_path / "out" / "distal.yaml").read_text())["health"]
    assert recorded == {"window": 5, "reward_fall": None, "probe_every": 1, "probe_size": 2}


def test_a_wrong_threshold_is_an_error_of_the_options(align: Run, tmp_path: Path) -> None:
    result = align(health="{windw: 5}")
    assert result.exit_code == 2
    assert "health: unknown threshold 'windw'; did you mean 'window'?" in result.stderr
    result = align(health="loud")
    assert result.exit_code == 2
    assert "health: expected true or false or a mapping, got 'loud'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_thresholds_may_change_when_a_run_is_resumed(align: Run, tmp_path: Path) -> None:
    """They watch; they are no part of what is learnt."""
    assert align(max_steps=2, save_steps=1).exit_code == 0
    state = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(state | {"state": "interrupted"}))
    result = align("--resume", max_steps=2, save_steps=1, health="{window: 9}")
    assert result.exit_code == 0, result.output


def test_data_that_changed_under_the_same_name_is_refused(
    align: Run, tmp_path: Path, pairs_file: Path
) -> None:
    """The options are the same, so that only the checkpoint's record can tell."""
    data = tmp_path / "pairs.jsonl"
    data.write_text(pairs_file.read_text())
    assert align(data=data, save_steps=1).exit_code == 0
    state = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps(state | {"state": "interrupted"}))
    rows = data.read_text().splitlines()
    data.write_text("\n".join([*rows[:-1], rows[-1].replace("w", "w1", 1)]) + "\n")
    result = align("--resume", data=data, save_steps=1)
    assert result.exit_code == 2
    assert "belongs to another run" in result.stderr
    assert "the training rows are others" in result.stderr
