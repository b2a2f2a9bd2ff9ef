"""Each guard on a made-up stream of measures, with values by hand: where it must fire and where it must not."""

from __future__ import annotations

from typing import Any, cast

import pytest

from distal.training.health.rules import History, judge
from distal.training.health.thresholds import HealthThresholds

W = 20
HEALTHY = {
    "reward_chosen": 1.0,
    "reward_rejected": -1.0,
    "effective_share": 0.9,
    "heaviest_rows": [4, 2],
    "surprise_ratio": 0.95,
    "length_correlation": 0.1,
    "sort_group": 64,
    "group_cost": 0.5,
    "group_bias": 0.005,
}


def judged(*, start=None, steps: int = W, thresholds=None, **streams: Any):
    """Findings at the last step; each stream is a number, or one number per step."""
    records = [
        {"step": i + 1} | HEALTHY | {k: v[i] if isinstance(v, list) else v for k, v in streams.items()}
        for i in range(steps)
    ]
    thresholds = thresholds or HealthThresholds()
    return judge(History(records, steps == W, start or {}), thresholds)


def only(findings, guard):
    (finding,) = findings
    assert finding.guard == guard
    assert finding.severity == "warning"
    assert finding.advice
    return finding


def test_a_healthy_run_has_no_findings():
    assert judged() == []


def test_objectives_that_sort_nothing_are_judged_by_the_rest():
    stream: dict[str, Any] = {"sort_group": None, "group_cost": None, "group_bias": None}
    assert judged(**stream) == []
    only(judged(**stream, effective_share=0.01), "effective_share")


# ---------------------------------------------------------------- sort groups


def test_bias_of_the_sort_group():
    """0.12 of 0.5 is 24 %; with 1/size it takes 8 * 0.24 / 0.1 = 19.2 samples."""
    finding = only(judged(sort_group=8, group_bias=0.12), "sort_group_bias")
    assert finding.value == pytest.approx(0.24)
    assert "sort groups of 8 about 24% of the loss (0.12 of 0.5" in finding.message
    assert "about 19 samples" in finding.advice


def test_bias_is_judged_as_the_mean_of_the_window():
    spikes = [0.0] * (W - 2) + [0.5, 0.5]  # mean 0.05 of 0.5: exactly the threshold
    assert judged(group_bias=spikes) == []
    only(judged(group_bias=[0.01, *spikes[1:]]), "sort_group_bias")


def test_groups_of_one_are_told_at_once():
    finding = only(judged(steps=1, sort_group=1, group_bias=0.2), "sort_group_bias")
    assert "nothing is sorted" in finding.message
    assert finding.value == pytest.approx(0.4)
    assert only(judged(steps=1, sort_group=1, group_bias=None), "sort_group_bias").value is None


def test_a_cost_of_zero_has_no_share():
    assert judged(group_cost=0.0, group_bias=0.0) == []


# ---------------------------------------------------------------- concentration


def test_few_samples_carry_the_gradient():
    finding = only(judged(effective_share=0.04), "effective_share")
    assert finding.value == pytest.approx(0.04)
    assert "4.0% of the batch" in finding.message
    assert "rows of this step: 4, 2" in finding.message


def test_one_concentrated_step_is_no_finding():
    assert judged(effective_share=[0.9] * (W - 1) + [0.0]) == []


def test_no_coefficients_at_all():
    assert "nothing is learnt" in only(judged(effective_share=0.0), "effective_share").message


# ---------------------------------------------------------------- falling rewards


def line(start, slope):
    return [start + slope * i for i in range(W)]


def test_both_rewards_fall():
    """0.1 and 0.2 nats per step over 19 intervals: 1.9 and 3.8 nats."""
    finding = only(judged(reward_chosen=line(0, -0.1), reward_rejected=line(0, -0.2)), "reward_fall")
    assert finding.value == pytest.approx(1.9)
    assert "preferred responses by 1.9 nats (now -1.9)" in finding.message
    assert "the others by 3.8 nats (now -3.8)" in finding.message


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        (line(0, 0.1), line(0, -0.5)),  # as it should be
        (line(0, -0.1), line(0, 0.1)),  # odd, but not this
        (line(0, -0.05), line(0, -0.5)),  # 0.95 nats
        ([0.0] * (W - 1) + [-50.0], line(0, -0.5)),  # one wild step
        ([0.0, -5.0] * (W // 2), [0.0, -5.0] * (W // 2)),  # up and down
        ([-8.0 * (i >= W // 2) for i in range(W)], line(0, -0.5)),  # one step down, then level: no trend
    ],
)
def test_rewards_that_do_not_both_fall(chosen, rejected):
    assert judged(reward_chosen=chosen, reward_rejected=rejected) == []


def test_a_fall_through_noise_is_seen():
    noisy = [value + (0.3 if i % 2 else -0.3) for i, value in enumerate(line(5, -0.15))]
    only(judged(reward_chosen=noisy, reward_rejected=noisy), "reward_fall")


# -------------------------------------------------------------------- collapse


def test_preferred_completions_no_longer_surprise():
    finding = only(judged(surprise_ratio=0.3), "surprise_ratio")
    assert finding.value == pytest.approx(0.3)
    assert "30%" in finding.message


def test_surprise_is_judged_by_the_median():
    assert judged(surprise_ratio=[0.01] * 9 + [0.9] * 11) == []
    assert judged(surprise_ratio=None) == []


@pytest.mark.parametrize(("correlation", "which"), [(0.7, "longer"), (-0.7, "shorter")])
def test_rewards_follow_length(correlation, which):
    finding = only(judged(length_correlation=correlation), "length_correlation")
    assert f"the {which} ones" in finding.message
    assert finding.value == pytest.approx(correlation)


def test_lengths_that_say_nothing():
    assert judged(length_correlation=[0.9, -0.9] * (W // 2)) == []
    assert judged(length_correlation=[0.9] * 9 + [None] * 11) == [], "defined in less than half of the window"


@pytest.mark.parametrize(("entropy", "fires"), [(1.0, False), (0.99, True), (None, False), (3.0, False)])
def test_entropy_of_the_probe(entropy, fires):
    findings = judged(start={"step": 0, "probe_entropy": 2.0}, probe_entropy=entropy)
    assert [finding.guard for finding in findings] == ["entropy_ratio"] * fires


@pytest.mark.parametrize(
    ("length", "fires"), [(10, False), (20, False), (5, False), (4.9, True), (21, True), (None, False)]
)
def test_length_of_generations(length, fires):
    findings = judged(start={"step": 0, "probe_length": 10.0}, probe_length=length)
    assert [finding.guard for finding in findings] == ["length_ratio"] * fires


def test_without_a_first_probe_there_is_nothing_to_compare_with():
    assert judged(probe_entropy=0.1, probe_length=0.1) == []


# ------------------------------------------------------------------ all of them

ILL: dict[str, dict[str, Any]] = {
    "sort_group_bias": {"group_bias": 0.4},
    "effective_share": {"effective_share": 0.01},
    "reward_fall": {"reward_chosen": line(0, -1), "reward_rejected": line(0, -1)},
    "surprise_ratio": {"surprise_ratio": 0.1},
    "length_correlation": {"length_correlation": 0.9},
    "entropy_ratio": {"probe_entropy": 0.1},
    "length_ratio": {"probe_length": 1.0},
}
START = {"step": 0, "probe_entropy": 2.0, "probe_length": 10.0}


@pytest.mark.parametrize("guard", ILL)
def test_each_guard_can_be_switched_off(guard):
    needed: dict[str, Any] = {"probe_every": 1, "probe_new_tokens": 5}
    on, off = HealthThresholds(**needed), HealthThresholds(**{**needed, guard: cast(Any, None)})
    only(judged(thresholds=on, start=START, **ILL[guard]), guard)
    assert judged(thresholds=off, start=START, **ILL[guard]) == []


@pytest.mark.parametrize("guard", [name for name in ILL if "ratio" not in name or name == "surprise_ratio"])
def test_a_window_that_is_not_full_is_not_judged(guard):
    streams = {name: v[:-1] if isinstance(v, list) else v for name, v in ILL[guard].items()}
    assert judged(steps=W - 1, **streams) == []


def test_findings_come_together_and_in_a_fixed_order():
    everything = {name: stream for streams in ILL.values() for name, stream in streams.items()}
    thresholds = HealthThresholds(probe_every=1, probe_new_tokens=5)
    assert [f.guard for f in judged(thresholds=thresholds, start=START, **everything)] == list(ILL)
