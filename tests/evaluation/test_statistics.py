"""Ranks and quantiles against SciPy and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from distal.errors import DataError, DistalError, NonFiniteError
from distal.evaluation.statistics import (
    FloatArray,
    RewardsLike,
    area_under_curve,
    as_rewards,
    pair_credits,
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
