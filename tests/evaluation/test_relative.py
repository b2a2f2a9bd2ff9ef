"""Runs on the same rows: gaps that dominate, gaps that are the same, and runs that cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distal.errors import ConfigError, DataError
from distal.evaluation import CertificateSet, ScoredRows, certify_rows, compare_runs
from distal.transport import violation_ratio


def _run(kind: Any, effect: float, *, spread: float = 1.0, seed: int = 0, rows: int = 240) -> ScoredRows:
    generator = np.random.default_rng(seed)
    desirable = np.tile([True, False], rows // 2)
    reference = generator.normal(-40, 5, rows)
    policy = reference + spread * generator.normal(size=rows) + effect * desirable
    return ScoredRows(
        kind=kind,
        policy=policy,
        reference=reference,
        desirable=desirable,
        noise=np.full(rows, 1e-4),
        prompts=np.arange(rows) // 2,
        completion_lengths=np.full(rows, 5),
        prompt_lengths=np.full(rows, 5),
        fingerprint="same",
    )


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_a_stronger_run_dominates_a_weaker_one(kind: Any):
    found = compare_runs({"strong": _run(kind, 2.0), "weak": _run(kind, 0.5)}, resamples=200)
    forth, back = found
    assert (forth.run, forth.other, back.run, back.other) == ("strong", "weak", "weak", "strong")
    assert forth.decision in ("dominance", "almost_dominance")
    assert back.decision == "not_supported"
    assert forth.violation_ratio == pytest.approx(1 - (back.violation_ratio or 0), abs=1e-12)
    assert forth.mean_gap_difference == pytest.approx(1.5, abs=1e-9)
    assert back.mean_gap_difference == pytest.approx(-1.5, abs=1e-9)
    low, high = forth.mean_gap_difference_ci
    assert low <= 1.5 <= high
    assert (forth.p_relative or 0) <= (forth.p_value or 0) < 0.05 < 0.9 < (back.p_value or 0)
    assert forth.p_adjusted == pytest.approx(2 * (forth.p_value or 0))


def test_pairs_are_compared_by_their_margins():
    a, b = _run("paired", 1.0, spread=2.0), _run("paired", 0.5, seed=1)
    margins = [run.rewards[0::2] - run.rewards[1::2] for run in (a, b)]
    found = compare_runs({"a": a, "b": b}, resamples=50)[0]
    assert found.gap == "pair_margins"
    assert found.violation_ratio == pytest.approx(violation_ratio(margins[0], margins[1]), abs=1e-12)


def test_samples_are_compared_by_their_quantile_gaps():
    a, b = _run("unpaired", 1.0, spread=2.0), _run("unpaired", 0.5, seed=1)
    gaps = [np.sort(run.rewards[run.desirable]) - np.sort(run.rewards[~run.desirable]) for run in (a, b)]
    found = compare_runs({"a": a, "b": b}, resamples=50)[0]
    assert found.gap == "quantile_gaps"
    assert found.violation_ratio == pytest.approx(violation_ratio(gaps[0], gaps[1]), abs=1e-9)


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_identical_runs_are_said_to_be_no_different(kind: Any):
    a = _run(kind, 1.0)
    b = replace(a, policy=a.policy + np.random.default_rng(0).uniform(-5e-5, 5e-5, a.policy.size))
    for other in (a, b):
        for one in compare_runs({"a": a, "b": other}, resamples=50):
            assert one.decision == "no_difference"
            assert "No difference" in one.verdict
            assert (one.violation_ratio, one.p_value, one.p_relative_adjusted) == (None, None, None)
            assert one.mean_gap_difference_ci == (0.0, 0.0)


def test_equally_good_runs_are_not_ranked():
    runs = {f"seed {seed}": _run("paired", 1.0, seed=seed) for seed in (2, 3, 4)}
    found = compare_runs(runs, resamples=200)
    assert len(found) == 6
    assert {one.decision for one in found} == {"not_supported"}


def test_few_samples_decide_nothing():
    found = compare_runs(
        {"a": _run("paired", 5.0, rows=30), "b": _run("paired", 0.0, rows=30)}, resamples=100
    )
    assert found[0].decision == "not_supported"
    assert "15 samples are too few to tell" in found[0].verdict


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_rows_that_all_share_one_prompt_are_drawn_one_by_one(kind: Any):
    """Data without prompts, as a certificate takes it too."""
    runs = {
        name: replace(_run(kind, effect), prompts=np.full(240, "same"))
        for name, effect in (("strong", 2.0), ("weak", 0.5))
    }
    found = compare_runs(runs, resamples=100)
    assert found == compare_runs(runs, resamples=100, by_prompt=False)
    assert (found[0].samples, certify_rows(runs["weak"], resamples=100).clusters) == (120, None)


def test_runs_of_other_rows_or_tokenizers_are_refused():
    a = _run("paired", 1.0)
    with pytest.raises(ConfigError, match="at least two runs, got 1"):
        compare_runs({"a": a})
    with pytest.raises(
        DataError, match=r"a and b were scored on different data \(240 paired and 100 paired rows\)"
    ):
        compare_runs({"a": a, "b": _run("paired", 1.0, rows=100)})
    with pytest.raises(DataError, match="their data or their tokenizers differ"):
        compare_runs({"a": a, "b": replace(a, fingerprint="other")})


def test_a_set_of_certificates_survives_json(tmp_path: Any):
    import json

    runs = {"a": _run("paired", 1.0), "b": _run("paired", 0.5)}
    made = CertificateSet(
        certificates={
            name: certify_rows(run, resamples=50, slice_by=["prompt_length"], length_controlled=True, order=2)
            for name, run in runs.items()
        },
        comparisons=compare_runs(runs, resamples=50),
    )
    content = json.loads(made.save(tmp_path / "dominance.json").read_text("utf-8"))
    assert content["schema"] == "distal.dominance-set/1"
    assert content["certificates"]["a"]["schema"] == "distal.dominance/2"
    assert CertificateSet.from_dict(content) == made
    with pytest.raises(DataError, match="its schema is None"):
        CertificateSet.from_dict({})
    del content["comparisons"][0]["verdict"]
    with pytest.raises(DataError, match="incomplete"):
        CertificateSet.from_dict(content)
