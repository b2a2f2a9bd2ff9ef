"""Ranks and bootstrap against SciPy, full enumeration, and simulation."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from distal.errors import DataError, DistalError, NonFiniteError
from distal.evaluation import statistics
from distal.evaluation.statistics import (
    FloatArray,
    RewardsLike,
    area_under_curve,
    as_rewards,
    bootstrap,
    pair_credits,
    percentile_interval,
    quantiles,
)

# Few distinct values, so that ties are common.
_SAMPLE = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12).map(np.array)


@given(_SAMPLE, _SAMPLE)
def test_auc_equals_mann_whitney(u: FloatArray, v: FloatArray):
    expected = mannwhitneyu(u, v).statistic / (u.size * v.size)
    assert area_under_curve(u, v) == pytest.approx(expected, abs=1e-12)


@given(_SAMPLE, _SAMPLE)
def test_auc_of_swapped_sides_is_the_complement(u: FloatArray, v: FloatArray):
    assert area_under_curve(v, u) == pytest.approx(1 - area_under_curve(u, v), abs=1e-12)


def test_auc_of_large_samples_does_not_overflow():
    u = np.arange(100_000, dtype=float)
    assert area_under_curve(u + 0.5, u) == pytest.approx(0.5 + 0.5 / 100_000, rel=1e-12)


def test_pair_credits_by_hand():
    credits = pair_credits(np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(credits, [1.0, 0.5, 0.0])


@given(_SAMPLE, st.integers(1, 99))
def test_quantile_is_the_smallest_value_whose_cumulative_share_reaches_the_level(x: FloatArray, percent: int):
    expected = min(value for value in x if 100 * np.sum(x <= value) >= percent * x.size)
    assert quantiles(np.sort(x), np.array([percent / 100])) == expected


def _enumerate(u: FloatArray, v: FloatArray, levels: FloatArray, *, paired: bool):
    """Exact bootstrap law: probability of each tuple (auc, mean gap, quantile gaps, accuracy)."""
    n, m = u.size, v.size
    law: Counter[tuple[float, ...]] = Counter()
    drawn_v = [None] if paired else list(product(range(m), repeat=m))
    for i in product(range(n), repeat=n):
        for j in drawn_v:
            a, b = u[list(i)], v[list(i if j is None else j)]
            gap = np.quantile(a, levels, method="inverted_cdf") - np.quantile(
                b, levels, method="inverted_cdf"
            )
            ranked = [pair_credits(a, b).mean()] if paired else []
            auc = mannwhitneyu(a, b).statistic / (n * m)
            law[tuple(np.round([auc, a.mean() - b.mean(), *gap, *ranked], 9))] += 1
    total = sum(law.values())
    return {outcome: count / total for outcome, count in law.items()}


@pytest.mark.parametrize(
    ("v", "paired"), [([0.5, 2.0, 2.0], True), ([0.5, 2.0], False)], ids=["pairs jointly", "sides apart"]
)
def test_bootstrap_draws_follow_the_enumerated_law(
    v: FloatArray, paired: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(statistics, "_BLOCK", 700)  # several blocks, the last one partly filled
    u, v, levels = np.array([2.0, 0.1, 3.0]), np.array(v), np.array([0.1, 0.55, 0.9])
    draws = bootstrap(u, v, levels, paired=paired, resamples=20_000, seed=1)
    columns = [draws.auc[:, None], draws.mean_gap[:, None], draws.gap]
    if draws.accuracy is not None:
        columns.append(draws.accuracy[:, None])
    seen = Counter(map(tuple, np.round(np.concatenate(columns, axis=1), 9)))
    law = _enumerate(u, v, levels, paired=paired)
    assert set(seen) == set(law)
    for outcome, probability in law.items():
        error = 5 * np.sqrt(probability * (1 - probability) / 20_000)
        assert seen[outcome] / 20_000 == pytest.approx(probability, abs=error)


def test_bootstrap_is_reproducible_and_depends_on_the_seed():
    u, v, levels = np.arange(9.0), np.arange(7.0), np.array([0.5])
    first, again, other = (bootstrap(u, v, levels, paired=False, resamples=50, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.mean_gap, again.mean_gap)
    assert not np.array_equal(first.mean_gap, other.mean_gap)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """95 % intervals of 300 samples: 91 % to 99 %, for three standard errors and percentile bias."""
    generator, shift = np.random.default_rng(5), 0.8
    truth = {"auc": norm.cdf(shift / np.sqrt(2)), "mean_gap": shift, "gap": shift}
    hits = dict.fromkeys(truth, 0)
    for trial in range(300):
        u, v = generator.normal(shift, 1, 80), generator.normal(0, 1, 60)
        draws = bootstrap(u, v, np.array([0.5]), paired=False, resamples=300, seed=trial)
        for name, value in truth.items():
            low, high = percentile_interval(getattr(draws, name), 0.95)
            hits[name] += bool(np.all((low <= value) & (value <= high)))
    assert all(0.91 <= count / 300 <= 0.99 for count in hits.values()), hits


def test_joint_resampling_narrows_the_interval_of_correlated_pairs():
    generator = np.random.default_rng(0)
    base = generator.normal(0, 5, 200)
    u, v = base + generator.normal(1, 0.5, 200), base
    widths = []
    for paired in (True, False):
        low, high = percentile_interval(
            bootstrap(u, v, np.array([0.5]), paired=paired, resamples=400, seed=0).mean_gap, 0.95
        )
        widths.append(high - low)
    # Standard errors by hand: 0.5 / sqrt(200) for pairs, 5 * sqrt(2 / 200) for independent sides.
    assert widths[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.2)
    assert widths[1] == pytest.approx(2 * 1.96 * 5 * np.sqrt(2 / 200), rel=0.2)


def test_rewards_come_as_lists_arrays_or_tensors_of_any_precision():
    for values in (
        [1, 2],
        np.array([1, 2], dtype=np.float32),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    ):
        rewards = as_rewards(values, "preferred")
        assert rewards.dtype == np.float64
        np.testing.assert_array_equal(rewards, [1.0, 2.0])
    np.testing.assert_array_equal(
        as_rewards(torch.tensor([1.0, 2.0], requires_grad=True), "other"), [1.0, 2.0]
    )


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([], DataError, r"preferred side holds 0 reward.* at least 2"),
        ([1.0], DataError, r"preferred side holds 1 reward"),
        ([[1.0, 2.0]], DataError, r"one-dimensional, got shape \(1, 2\)"),
        (["a", "b"], DataError, r"not a list of numbers"),
        (
            [1.0, float("nan"), 2.0],
            NonFiniteError,
            r"1 of 3 preferred rewards are not finite, the first at index 1 \(nan\)",
        ),
        ([1.0, 2.0, float("-inf")], NonFiniteError, r"index 2 \(-inf\)"),
    ],
)
def test_unusable_rewards_are_refused(values: RewardsLike, error: type[DistalError], message: str):
    with pytest.raises(error, match=message):
        as_rewards(values, "preferred")
