"""The certificate's numbers by hand, in closed form, and under transformations that must not change them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from distal.errors import ConfigError, DataError, DistalError, NonFiniteError
from distal.evaluation import LEVELS, DominanceCertificate, dominance_certificate
from distal.evaluation.schema import certificate_schema
from distal.evaluation.statistics import FloatArray


def _gaussian_ratio(shift: float, spread: float) -> float:
    """Ratio of N(shift, (1 + spread)^2) over N(0, 1): the gap X is N(shift, spread^2), E[X_-^2] / E[X^2]."""
    square = shift**2 + spread**2
    z = shift / spread
    return float((square * norm.cdf(-z) - shift * spread * norm.pdf(z)) / square)


def _numbers(certificate: DominanceCertificate) -> dict[str, object]:
    return {field.name: getattr(certificate, field.name) for field in dataclasses.fields(certificate)}


def test_hand_computed_pairs():
    # Sorted: u = 0, 1, 4 and v = 0, 2, 3, so the gaps are 0, -1, 1: ratio 1/2, a third of levels violated.
    # Nine comparisons: 0 beats none and ties one, 1 beats one, 4 beats three: (4 + 1/2) / 9.
    # Pairs: one right, one tie, one wrong.
    c = dominance_certificate([4.0, 0.0, 1.0], [3.0, 0.0, 2.0], paired=True, resamples=100)
    assert c.violation_ratio == pytest.approx(0.5)
    assert c.violated_share == pytest.approx(1 / 3)
    assert c.auc == pytest.approx(4.5 / 9)
    assert c.accuracy == pytest.approx(0.5)
    assert c.tied_pairs == 1
    assert c.mean_gap == pytest.approx(0.0)
    assert (c.kind, c.n_preferred, c.n_other, c.samples) == ("paired", 3, 3, 3)
    at = {level: i for i, level in enumerate(c.levels)}
    assert [c.preferred_quantiles[at[t]] for t in (0.33, 0.34, 0.66, 0.67)] == [0.0, 1.0, 1.0, 4.0]
    assert [c.other_quantiles[at[t]] for t in (0.33, 0.34, 0.66, 0.67)] == [0.0, 2.0, 2.0, 3.0]
    assert [c.curves.gap[at[t]] for t in (0.33, 0.34, 0.67)] == [0.0, -1.0, 1.0]


def test_hand_computed_unequal_counts():
    # Merged grid: u = (1, 4) on halves, v = (0, 2, 3) on thirds; gaps 1, -1, 2, 1 on 1/3, 1/6, 1/6, 1/3.
    c = dominance_certificate([4.0, 1.0], [3.0, 0.0, 2.0], paired=False, resamples=100)
    assert c.violated_share == pytest.approx(1 / 6)
    assert c.violation_ratio == pytest.approx((1 / 6) / (1 / 3 + 1 / 6 + 4 / 6 + 1 / 3))
    assert c.accuracy is None
    assert c.accuracy_ci is None
    assert c.tied_pairs is None


@pytest.mark.parametrize(("shift", "spread"), [(0.5, 0.5), (0.3, 1.0), (-0.2, 0.4)])
def test_gaussian_closed_forms(shift: float, spread: float):
    # Quantiles instead of draws: the error is that of the grid, not of chance.
    z = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    c = dominance_certificate(shift + (1 + spread) * z, z, paired=False, resamples=39)
    assert c.violation_ratio == pytest.approx(_gaussian_ratio(shift, spread), abs=1e-3)
    assert c.violated_share == pytest.approx(norm.cdf(-shift / spread), abs=1e-3)
    assert c.auc == pytest.approx(norm.cdf(shift / math.hypot(1, 1 + spread)), abs=1e-3)
    assert c.mean_gap == pytest.approx(shift, abs=1e-6)
    np.testing.assert_allclose(c.curves.gap, shift + spread * norm.ppf(LEVELS), atol=5e-3)


@pytest.mark.parametrize(("shift", "spread"), [(0.3, 1.0), (0.5, 0.5)])
def test_interval_of_the_ratio_covers_the_closed_form(shift: float, spread: float):
    """How often the interval covers is measured by benchmarks/coverage.py; four errors of 60 trials are 11 %."""
    generator, hits = np.random.default_rng(2), 0
    for trial in range(60):
        u, v = generator.normal(shift, 1 + spread, 200), generator.normal(0, 1, 200)
        c = dominance_certificate(u, v, paired=False, resamples=200, seed=trial)
        assert c.violation_ratio_ci is not None
        hits += c.violation_ratio_ci[0] <= _gaussian_ratio(shift, spread) <= c.violation_ratio_ci[1]
    assert hits / 60 >= 0.84


@pytest.fixture
def rewards():
    generator = np.random.default_rng(0)
    return generator.normal(0.4, 1.5, 60), generator.normal(0, 1, 60)


@pytest.mark.parametrize("paired", [True, False])
def test_a_common_shift_changes_nothing_but_the_curves(rewards: tuple[FloatArray, FloatArray], paired: bool):
    u, v = rewards
    before = _numbers(dominance_certificate(u, v, paired=paired, resamples=50))
    after = _numbers(dominance_certificate(u + 8, v + 8, paired=paired, resamples=50))
    for name in (
        "violation_ratio",
        "violation_ratio_ci",
        "violated_share",
        "auc",
        "auc_ci",
        "mean_gap",
        "mean_gap_ci",
    ):
        assert after[name] == pytest.approx(before[name], abs=1e-9), name


def test_order_of_the_samples_does_not_matter(rewards: tuple[FloatArray, FloatArray]):
    u, v = rewards
    order = np.random.default_rng(1).permutation(u.size)
    c, d = (dominance_certificate(a, b, paired=True, resamples=50) for a, b in ((u, v), (u[order], v[order])))
    for name in ("violation_ratio", "violated_share", "auc", "accuracy", "mean_gap"):
        assert getattr(c, name) == pytest.approx(getattr(d, name), abs=1e-12)
    assert c.curves.gap == d.curves.gap


def test_swapping_the_sides_gives_the_complements(rewards: tuple[FloatArray, FloatArray]):
    u, v = rewards
    c, d = (dominance_certificate(a, b, paired=True, resamples=50) for a, b in ((u, v), (v, u)))
    for name in ("violation_ratio", "auc", "accuracy"):
        assert getattr(c, name) == pytest.approx(1 - getattr(d, name), abs=1e-12)
    assert c.mean_gap == pytest.approx(-d.mean_gap)
    assert c.curves.gap == tuple(-gap for gap in d.curves.gap)


def test_rewards_that_coincide_leave_dominance_undefined():
    c = dominance_certificate(np.zeros(50), np.zeros(50), paired=True)
    assert c.violation_ratio is None
    assert c.violation_ratio_ci is None
    assert c.decision == "undefined"
    assert c.verdict == (
        "Dominance undefined: all rewards coincide, as before training, so the violation ratio is 0/0."
    )
    assert (c.auc, c.accuracy, c.tied_pairs, c.mean_gap, c.violated_share) == (0.5, 0.5, 50, 0.0, 0.0)


def test_equal_laws_of_unequal_counts_are_undefined_too():
    c = dominance_certificate([0.0, 1.0, 0.0, 1.0], [1.0, 0.0], paired=False)
    assert c.violation_ratio is None
    assert "both distributions coincide" in c.verdict


def test_margin_view_compares_policy_with_reference_margins():
    margins = (np.array([1.0, 3.0, 2.0]), np.array([1.0, 0.0, 2.5]))
    c = dominance_certificate([3.0, 1.0, 2.0], [0.0, 0.0, 0.0], paired=True, resamples=50, margins=margins)
    assert c.margins is not None
    # Sorted margins 1, 2, 3 and 0, 1, 2.5: dominated throughout.
    assert (c.margins.violation_ratio, c.margins.violated_share) == (0.0, 0.0)
    assert c.margins.mean_gap == pytest.approx(2 - 3.5 / 3)
    assert "margins" not in c.verdict


def test_margins_of_an_untrained_policy_are_undefined():
    margins = np.arange(30.0)
    c = dominance_certificate(
        np.zeros(30), np.zeros(30), paired=True, resamples=50, margins=(margins, margins)
    )
    assert c.margins is not None
    assert c.margins.decision == "undefined"


@pytest.mark.parametrize("paired", [True, False])
def test_json_round_trip(rewards: tuple[FloatArray, FloatArray], paired: bool, tmp_path: Path):
    u, v = rewards
    margins = (u - v, np.zeros(60)) if paired else None
    c = dominance_certificate(u, v, paired=paired, resamples=50, margins=margins)
    content = json.loads(c.save(tmp_path / "new" / "dominance.json").read_text(encoding="utf-8"))
    assert content["schema"] == "distal.dominance/2"
    assert content["verdict"] == c.verdict
    assert content["violation_ratio_ci"] == list(c.violation_ratio_ci or ())
    assert DominanceCertificate.from_dict(content) == c


def test_json_of_an_undefined_ratio_holds_null(tmp_path: Path):
    c = dominance_certificate(np.zeros(5), np.zeros(5), paired=False)
    text = c.save(tmp_path / "c.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert "NaN" not in text
    assert content["violation_ratio"] is None
    assert content["violation_ratio_ci"] is None
    assert DominanceCertificate.from_dict(content) == c


def test_certificates_of_the_first_version_can_be_read(rewards: tuple[FloatArray, FloatArray]):
    c = dominance_certificate(*rewards, paired=True, resamples=50, margins=rewards)
    content = json.loads(json.dumps(c.to_dict()))
    new = ("test", "second_order", "clusters", "length_controlled", "slices", "intervals_reliable")
    for part in (content, content["margins"]):
        for name in new:
            part.pop(name, None)
    old = DominanceCertificate.from_dict(content | {"schema": "distal.dominance/1"})
    assert old.margins is not None
    assert c.margins is not None
    assert old == replace(c, test=None, margins=replace(c.margins, test=None))


def test_every_part_survives_json_and_the_schema_describes_it():
    generator = np.random.default_rng(0)
    u, v = generator.normal(0.8, 1.5, 60), generator.normal(0, 1, 60)
    lengths = generator.integers(3, 8, 60), generator.integers(3, 8, 60)
    c = dominance_certificate(
        u,
        v,
        paired=True,
        resamples=50,
        order=2,
        margins=(u - v, 0.1 * v),
        clusters=np.arange(60) // 2,
        lengths=lengths,
        attributes={"half": np.repeat(["a", "b"], 30), "few": np.repeat([0, 1], [55, 5])},
    )
    content = json.loads(json.dumps(c.to_dict(), allow_nan=False))
    assert DominanceCertificate.from_dict(content) == c
    assert content["clusters"] == 30
    assert content["second_order"]["decision"] == c.second_order.decision if c.second_order else False
    assert content["length_controlled"]["second_order"]["verdict"].startswith("Second order: ")
    assert [part["status"] for part in content["slices"]["slices"]] == ["too_small"] * 2 + [
        "tested",
        "too_small",
    ]
    schema = certificate_schema()
    missing = set(content) - set(schema["properties"])
    assert not missing, f"the schema does not name {missing}"
    assert set(schema["required"]) <= set(content)


@pytest.mark.parametrize(("confidence", "resamples"), [(0.9, 20), (0.95, 39), (0.99, 199), (0.999, 1999)])
def test_the_fewest_resamples_that_are_accepted_can_show_dominance(confidence: float, resamples: int):
    u = np.arange(40.0)
    c = dominance_certificate(u + 100, u, paired=True, resamples=resamples, confidence=confidence)
    assert (c.violation_ratio_ci, c.decision) == ((0.0, 0.0), "dominance")


def test_few_samples_are_said_to_make_intervals_unreliable():
    few = dominance_certificate(np.arange(19.0) + 1, np.arange(19.0), paired=True, resamples=50)
    assert few.notes == ("only 19 samples on a side: below 20, intervals are too narrow",)
    assert few.to_dict()["intervals_reliable"] is False
    u = np.arange(60.0)
    prompts = dominance_certificate(u + 1, u, paired=True, resamples=50, clusters=np.arange(60) % 9)
    assert prompts.notes == ("only 9 prompts on a side: below 20, intervals are too narrow",)
    assert prompts.decision == "not_supported"


def test_the_published_schema_is_the_one_of_the_code():
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "dominance.schema.json"
    assert json.loads(page.read_text("utf-8")) == certificate_schema()


def test_foreign_and_broken_json_is_refused():
    content = dominance_certificate([0.0, 1.0], [0.0, 2.0], paired=True, resamples=39).to_dict()
    with pytest.raises(DataError, match=r"schema is None, expected 'distal\.dominance/2'"):
        DominanceCertificate.from_dict({"violation_ratio": 0.5})
    del content["auc"]
    with pytest.raises(DataError, match="incomplete: 'auc'"):
        DominanceCertificate.from_dict(content)


def test_seed_makes_it_reproducible(rewards: tuple[FloatArray, FloatArray]):
    u, v = rewards
    assert dominance_certificate(u, v, paired=False, resamples=50, seed=7) == dominance_certificate(
        torch.from_numpy(u), list(v), paired=False, resamples=50, seed=7
    )


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_of_the_rewards_does_not_matter(rewards: tuple[FloatArray, FloatArray], scale: float):
    u, v = rewards
    c, d = (
        dominance_certificate(a, b, paired=False, resamples=50) for a, b in ((u, v), (scale * u, scale * v))
    )
    assert d.violation_ratio == pytest.approx(c.violation_ratio, rel=1e-6)
    assert d.violation_ratio_ci == pytest.approx(c.violation_ratio_ci, rel=1e-6)
    assert d.decision == c.decision


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"preferred": [1.0, 2.0, 3.0]}, DataError, r"got 3 preferred and 2 other; pass paired=False"),
        ({"preferred": []}, DataError, r"preferred side holds 0"),
        ({"other": [0.0, math.nan]}, NonFiniteError, r"other rewards are not finite, the first at index 1"),
        ({"margins": ([1.0, 2.0], [1.0, 2.0, 3.0])}, DataError, r"got 2 and 3 for 2 pairs"),
        (
            {"margins": ([1.0, 2.0], [1.0, 2.0]), "paired": False},
            DataError,
            r"margins exist for paired data only",
        ),
        ({"confidence": 95.0}, ConfigError, r"confidence must lie strictly between 0 and 1, got 95"),
        (
            {"resamples": 38},
            ConfigError,
            r"resamples must be at least 39 for intervals of confidence 0\.95 .* got 38",
        ),
        ({"resamples": 198, "confidence": 0.99}, ConfigError, r"resamples must be at least 199"),
        ({"confidence": 0.999}, ConfigError, r"resamples must be at least 1999 .* got 1000"),
        ({"resamples": 19, "confidence": 0.5}, ConfigError, r"resamples must be at least 20"),
        ({"resamples": 50.5}, ConfigError, r"resamples must be a whole number, got 50\.5"),
        ({"seed": 1.5}, ConfigError, r"seed must be a whole number, got 1\.5"),
        ({"seed": True}, ConfigError, r"seed must be a whole number, got True"),
        ({"seed": -1}, ConfigError, r"seed must not be negative, got -1"),
        ({"threshold": 0.8}, ConfigError, r"threshold must lie in \(0, 0\.5\], got 0\.8"),
    ],
)
def test_misuse_is_refused(changes: dict[str, Any], error: type[DistalError], message: str):
    call: dict[str, Any] = {"preferred": [1.0, 2.0], "other": [0.0, 1.0], "paired": True, **changes}
    with pytest.raises(error, match=message):
        dominance_certificate(call.pop("preferred"), call.pop("other"), **call)
