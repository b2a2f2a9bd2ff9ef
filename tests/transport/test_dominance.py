"""Violation ratios and their bootstrap against values by hand, numerical integration and their own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from distal.transport import bootstrap_violation_ratio, quantile_gap, violation_ratio
from tests.transport.oracles import normal, samples


@pytest.mark.parametrize(
    ("u", "v", "order", "ratio"),
    [
        ([2.0, 3.0], [1.0, 2.5], 1, 0.0),
        ([1.0, 2.5], [2.0, 3.0], 1, 1.0),
        ([0.0, 5.0], [1.0, 2.0], 1, 1 / 10),
        ([0.0, 3.0], [1.0], 1, 1 / 5),
        # Integrated gap: down to -1/2, then up to +1: a triangle below, with areas 1/24 + 1/72 of 1/24 + 1/8.
        ([0.0, 5.0], [1.0, 2.0], 2, (1 / 24 + 1 / 72) / (1 / 24 + 1 / 8)),
        ([1.0, 2.0], [0.0, 3.0], 2, 0.0),
        ([0.0, 3.0], [1.0, 2.0], 2, 1.0),
    ],
)
def test_ratio_by_hand(u: list[float], v: list[float], order: int, ratio: float):
    assert violation_ratio(u, v, order) == pytest.approx(ratio, abs=1e-14)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("order", [1, 2])
def test_coinciding_laws_have_no_ratio(order: int):
    assert math.isnan(violation_ratio(torch.zeros(4), torch.zeros(7), order))  # pyright: ignore[reportArgumentType]
    u = [1.0, 2.0]
    assert math.isnan(violation_ratio(u, [2.0, 1.0, 1.0, 2.0], order))  # pyright: ignore[reportArgumentType]
    low, high = bootstrap_violation_ratio([1.0], [1.0], order=order)  # pyright: ignore[reportArgumentType]
    assert math.isnan(low)
    assert math.isnan(high)


def test_rounding_can_be_told_from_distance():
    u, v = normal(50, seed=1, scale=1e-6), normal(50, seed=2, scale=1e-6)
    assert 0 < violation_ratio(u, v) < 1
    assert math.isnan(violation_ratio(u, v, tolerance=1e-4))


@pytest.mark.parametrize("order", [1, 2])
@given(u=samples(), v=samples())
def test_ratio_and_its_mirror_image_sum_to_one(order: int, u: Tensor, v: Tensor):
    ratio = violation_ratio(u, v, order)  # pyright: ignore[reportArgumentType]
    assume(not math.isnan(ratio))
    assert 0 <= ratio <= 1
    mirrored = violation_ratio(v, u, order)  # pyright: ignore[reportArgumentType]
    assert ratio + mirrored == pytest.approx(1.0, abs=1e-12)


@given(u=samples(), v=samples())
def test_zero_means_dominance_at_every_level(u: Tensor, v: Tensor):
    ratio = violation_ratio(u, v)
    assume(not math.isnan(ratio))
    levels = [k / 420 for k in range(1, 421)]
    assert (ratio == 0) == bool((quantile_gap(u, v, levels) >= 0).all())


@pytest.mark.parametrize("order", [1, 2])
def test_ratio_equals_numerical_integration(order: int):
    u, v = 2 * normal(7, seed=1) + 0.5, normal(5, seed=2)
    levels = (np.arange(350_000) + 0.5) / 350_000
    gap = quantile_gap(u, v, levels.tolist()).numpy()
    curve = gap if order == 1 else np.cumsum(gap) / levels.size
    expected = np.square(np.minimum(curve, 0)).sum() / np.square(curve).sum()
    assert 0.02 < expected < 0.98
    assert violation_ratio(u, v, order) == pytest.approx(expected, rel=1e-4)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("order", [1, 2])
@given(u=samples(), v=samples(), shift=st.integers(-4, 4), factor=st.sampled_from([0.5, 4.0]))
def test_shift_and_scale_change_nothing(order: int, u: Tensor, v: Tensor, shift: int, factor: float):
    ratio = violation_ratio(u, v, order)  # pyright: ignore[reportArgumentType]
    moved = violation_ratio(factor * u + shift, factor * v + shift, order)  # pyright: ignore[reportArgumentType]
    assert moved == pytest.approx(ratio, abs=1e-12, nan_ok=True)


def test_arrays_lists_and_tensors_answer_alike():
    u, v = normal(9, seed=1).float(), normal(9, seed=2).float()
    assert violation_ratio(u.numpy(), v.tolist()) == violation_ratio(u, v)


def test_interval_is_reproducible_and_covers_the_point():
    u, v = normal(80, seed=1) + 0.1, normal(60, seed=2)
    interval = bootstrap_violation_ratio(u, v, seed=3)
    assert interval == bootstrap_violation_ratio(u, v, seed=3)
    assert interval != bootstrap_violation_ratio(u, v, seed=4)
    assert 0 <= interval[0] < violation_ratio(u, v) < interval[1] <= 1


def test_interval_widens_with_its_confidence():
    u, v = normal(80, seed=1) + 0.1, normal(60, seed=2)
    narrow, wide = (bootstrap_violation_ratio(u, v, confidence=c) for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_resampling_draws_uniformly_with_replacement():
    # With one u point and two v points the resampled ratio only depends on how often v's low point is drawn.
    u, v = [1.0], [0.0, 4.0]
    # both low (1/4): 0; one each (1/2): 9/10; both high (1/4): 1.
    quartiles = bootstrap_violation_ratio(u, v, confidence=0.4, resamples=4000)
    assert quartiles == (pytest.approx(0.9), pytest.approx(0.9))
    outer = bootstrap_violation_ratio(u, v, confidence=0.6, resamples=4000)
    assert outer == (0.0, 1.0)


def test_pairs_are_resampled_together():
    u = normal(200, seed=1)
    v = u - 0.05
    assert bootstrap_violation_ratio(u, v, paired=True) == (0.0, 0.0)
    assert bootstrap_violation_ratio(u, v)[1] > 0.5


def test_large_samples_are_resampled_in_chunks():
    u, v = normal(30_000, seed=1) + 0.5, normal(30_000, seed=2)
    assert bootstrap_violation_ratio(u, v, resamples=200)[1] < 0.01
