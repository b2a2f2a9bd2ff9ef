"""Thresholds: what can be set, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from distal.errors import ConfigError
from distal.training import HealthThresholds

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "health.md"


def test_on_off_and_a_mapping():
    assert HealthThresholds.from_option(True) == HealthThresholds()
    assert HealthThresholds.from_option(False) is None
    assert HealthThresholds.from_option({}) == HealthThresholds()
    assert HealthThresholds.from_option({"window": 50, "reward_fall": None}) == HealthThresholds(
        window=50, reward_fall=None
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reward_fal": 1}, "unknown threshold 'reward_fal'; did you mean 'reward_fall'?"),
        ({"window": 4}, "window: expected a whole number from 5 on, got 4"),
        ({"window": 7.5}, "window: expected a whole number from 5 on, got 7.5"),
        ({"window": None}, "window: expected a whole number from 5 on, got None"),
        ({"window": True}, "window: expected a whole number"),
        ({"effective_share": 1.0}, "effective_share: expected a number from 0 to below 1, got 1.0"),
        ({"effective_share": "lots"}, "effective_share: expected a number"),
        ({"length_correlation": -0.1}, "length_correlation: expected a number from 0 to below 1"),
        ({"reward_fall": float("nan")}, "reward_fall: expected a number from 0 on, got nan"),
        ({"probe_every": 0}, "probe_every: expected a whole number from 1 on"),
        ({"probe_size": 4}, "probe_size has no effect without probe_every"),
        ({"probe_new_tokens": 9}, "probe_new_tokens has no effect without probe_every"),
        ({"probe_every": 5, "length_ratio": 0.9}, "length_ratio has no effect without probe_new_tokens"),
        ({"probe_every": 5, "entropy_ratio": None}, "probe_every has no effect"),
        ("on", "expected true, false or a mapping of thresholds, got 'on'"),
        (3, "expected true, false or a mapping"),
    ],
)
def test_wrong_thresholds_are_refused(given, message):
    with pytest.raises(ConfigError, match="^health: .*" + message.replace("?", r"\?")):
        HealthThresholds.from_option(given)


def test_every_threshold_is_documented_with_its_default():
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    table = {cells[1].strip(" `"): cells[2].strip() for cells in (row.split("|") for row in rows)}
    for item in dataclasses.fields(HealthThresholds):
        assert table.get(item.name) == ("off" if item.default is None else str(item.default)), item.name
