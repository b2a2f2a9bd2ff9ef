"""Tails against SciPy, and the ends of the violation ratio's interval."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from scipy.stats import norm, t

from distal.evaluation.comparing import LEVELS
from distal.evaluation.intervals import (
    contrast_p_value,
    expanded_tail,
    fewest_resamples,
    interval_p_value,
    ratio_interval,
)
from distal.evaluation.laws import Frame
from distal.evaluation.resampling import Plan, bootstrap, observed
from distal.evaluation.statistics import FloatArray
from distal.transport import dominance_test


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("independent", [10, 20, 50, 1000])
def test_tail_is_that_of_students_law(confidence: float, independent: int):
    quantile = t.ppf((1 + confidence) / 2, independent - 1) * math.sqrt(independent / (independent - 1))
    assert expanded_tail(confidence, independent) == pytest.approx(norm.cdf(-quantile), rel=0.02)


def test_a_single_sample_has_no_interval_but_everything():
    assert expanded_tail(0.95, 1) == 0


def _interval(u: FloatArray, v: FloatArray, order: int = 1):
    frame, plan = Frame.of(u, v, LEVELS, paired=False, second_order=True), Plan(paired=False)
    found = ratio_interval(
        observed(frame, plan),
        bootstrap(frame, plan, 300, 0),
        confidence=0.95,
        independent=min(u.size, v.size),
        order=order,
    )
    assert found is not None
    return found


@pytest.mark.parametrize("order", [1, 2])
def test_interval_reaches_zero_unless_dominance_is_rejected(order: int):
    generator = np.random.default_rng(1)
    u, v = generator.normal(0.3, 1, 60), generator.normal(0, 1, 60)
    assert _interval(u, v, order)[0] == 0
    crossing = generator.normal(0, 3, 400), generator.normal(0, 1, 400)
    low, high = _interval(*crossing, order=1)
    assert 0 < low < 0.5 < high < 1


@pytest.mark.parametrize("order", [1, 2])
def test_swapped_sides_have_the_complementary_interval(order: int):
    generator = np.random.default_rng(2)
    u, v = generator.normal(0.4, 1.5, 80), generator.normal(0, 1, 80)
    frames = [Frame.of(*sides, LEVELS, paired=True, second_order=True) for sides in ((u, v), (v, u))]
    plan = Plan(paired=True)
    one, two = (
        ratio_interval(
            observed(frame, plan), bootstrap(frame, plan, 200, 0), confidence=0.9, independent=80, order=order
        )
        for frame in frames
    )
    assert one is not None
    assert two is not None
    assert one == pytest.approx((1 - two[1], 1 - two[0]), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_p_value_of_the_contrast_is_near_that_of_the_influence_functions(order: Literal[1, 2]):
    generator = np.random.default_rng(5)
    u, v = generator.normal(0.5, 1.6, 400), generator.normal(0, 1, 400)
    frame, plan = Frame.of(u, v, LEVELS, paired=False, second_order=True), Plan(paired=False)
    mine = contrast_p_value(observed(frame, plan), bootstrap(frame, plan, 2000, 0), 0.25, order=order)
    theirs = dominance_test(u, v, order=order, threshold=0.25, method="asymptotic").p_value
    assert norm.ppf(mine) == pytest.approx(norm.ppf(theirs), abs=0.35)


def test_p_value_of_laws_that_coincide_is_undefined():
    frame, plan = Frame.of(np.zeros(5), np.zeros(5), LEVELS, paired=False), Plan(paired=False)
    assert math.isnan(contrast_p_value(observed(frame, plan), bootstrap(frame, plan, 20, 0), 0.25))


@pytest.mark.parametrize("independent", [20, 60, 1000])
def test_p_value_of_the_interval_is_the_level_at_which_it_leaves_the_threshold(independent: int):
    generator = np.random.default_rng(3)
    u, v = generator.normal(1.1, 2, 60), generator.normal(0, 1, 60)
    frame, plan = Frame.of(u, v, LEVELS, paired=False), Plan(paired=False)
    seen, draws = observed(frame, plan), bootstrap(frame, plan, 2000, 0)
    for threshold in (0.15, 0.25, 0.4):
        p_value = interval_p_value(seen, draws, threshold, independent=independent)
        assert 2 / 2001 < p_value < 1
        for level, below in ((p_value * 1.001, True), (p_value * 0.9, False)):
            found = ratio_interval(seen, draws, confidence=1 - level, independent=independent)
            assert found is not None
            assert (found[1] < threshold) is below


def test_p_value_of_the_interval_at_its_ends():
    plan = Plan(paired=False)
    for shift, expected in ((100.0, 2 / 101), (-100.0, 1.0)):
        frame = Frame.of(np.arange(30.0) + shift, np.arange(30.0), LEVELS, paired=False)
        seen, draws = observed(frame, plan), bootstrap(frame, plan, 100, 0)
        assert interval_p_value(seen, draws, 0.25, independent=30) == pytest.approx(expected)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_the_fewest_resamples_are_those_with_which_an_interval_can_end_inside(confidence: float):
    frame, plan = Frame.of(np.arange(30.0) + 100, np.arange(30.0), LEVELS, paired=False), Plan(paired=False)
    fewest = fewest_resamples(confidence)
    for resamples, expected in ((fewest - 1, (0.0, 1.0)), (fewest, (0.0, 0.0))):
        found = ratio_interval(
            observed(frame, plan),
            bootstrap(frame, plan, resamples, 0),
            confidence=confidence,
            independent=30,
        )
        assert found == expected
