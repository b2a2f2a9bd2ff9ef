"""The bootstrap against resamples written out, full enumeration, and simulation."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from distal.evaluation import resampling
from distal.evaluation.intervals import percentile_interval
from distal.evaluation.laws import Frame, Statistics, of_counts, of_weights
from distal.evaluation.lengths import Strata
from distal.evaluation.resampling import Groups, Plan
from distal.evaluation.statistics import FloatArray, pair_credits
from distal.transport import violation_ratio

LEVELS = np.array([0.1, 0.5, 0.55, 0.9])


def _bootstrap(
    u: FloatArray, v: FloatArray, levels: FloatArray, *, paired: bool, resamples: int, seed: int
) -> Statistics:
    return resampling.bootstrap(Frame.of(u, v, levels, paired=paired), Plan(paired), resamples, seed)


def _integrated_gap(a: FloatArray, b: FloatArray, levels: FloatArray) -> FloatArray:
    """`int_0^t (Q_a - Q_b)` on a grid on which both are constant."""
    cells = a.size * b.size
    gap = np.repeat(np.sort(a), b.size) - np.repeat(np.sort(b), a.size)
    reached = np.concatenate([[0.0], np.cumsum(gap) / cells])
    return np.interp(levels, np.arange(cells + 1) / cells, reached)


@st.composite
def _resample(draw: st.DrawFn):
    """Two small samples with ties, and how often each value is drawn."""
    n, m = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    value = st.integers(-3, 3).map(float)
    u, v = (np.array(draw(st.lists(value, min_size=k, max_size=k))) for k in (n, m))
    i, j = (draw(st.lists(st.integers(0, k - 1), min_size=k, max_size=k)) for k in (n, m))
    return u, v, np.array(i), np.array(j)


@given(_resample())
def test_both_ways_equal_the_resample_written_out(case: tuple[Any, Any, Any, Any]):
    u, v, i, j = case
    a, b = u[i], v[j]
    frame = Frame.of(u, v, LEVELS, paired=False, second_order=True)
    on_u, on_v = (
        np.bincount(drawn, minlength=side.size)[order][None]
        for drawn, side, order in ((i, u, frame.pair.u_order), (j, v, frame.pair.v_order))
    )
    for found in (of_counts(frame, on_u, on_v), of_weights(frame, on_u * 0.3, on_v * 7.0)):
        assert found.mean_gap[0] == pytest.approx(a.mean() - b.mean(), abs=1e-12)
        assert found.auc[0] == pytest.approx(mannwhitneyu(a, b).statistic / (a.size * b.size), abs=1e-12)
        expected = [np.quantile(x, LEVELS, method="inverted_cdf") for x in (a, b)]
        np.testing.assert_array_equal(found.gap[0], expected[0] - expected[1])
        points = np.unique(np.concatenate([u, v]))
        lag = [np.mean(a <= point) - np.mean(b <= point) for point in points]
        np.testing.assert_allclose(found.lag[0], lag, atol=1e-12)
        assert found.integrated is not None
        np.testing.assert_allclose(found.integrated[0], _integrated_gap(a, b, LEVELS), atol=1e-12)
        sides: Any = ((1, found.wrong, found.right), (2, found.wrong2, found.right2))
        for order, wrong, right in sides:
            distance = float(wrong[0] + right[0])
            ratio = float(wrong[0]) / distance if distance > 1e-18 else float("nan")
            known = violation_ratio(a, b, order=order, tolerance=1e-8)
            assert ratio == pytest.approx(known, abs=1e-9, nan_ok=True)


def test_fast_and_general_way_agree_on_blocks_of_resamples():
    generator = np.random.default_rng(0)
    u, v = generator.normal(0.3, 1, 40).round(1), generator.normal(0, 1, 40).round(1)
    frame = Frame.of(u, v, LEVELS, paired=True, second_order=True)
    counts = generator.multinomial(40, np.full(40, 1 / 40), size=7)
    fast = of_counts(frame, counts, counts[::-1].copy())
    general = of_weights(frame, counts, counts[::-1].copy())
    for name, one, two in zip(Statistics._fields, fast, general, strict=True):
        assert one is not None
        assert two is not None
        np.testing.assert_allclose(one, two, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("paired", [True, False])
def test_threads_do_not_change_the_draws(paired: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resampling, "_BLOCK", 200)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    u, v = np.random.default_rng(0).normal(size=(2, 30))
    one = _bootstrap(u, v, LEVELS, paired=paired, resamples=50, seed=4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = _bootstrap(u, v, LEVELS, paired=paired, resamples=50, seed=4)
    np.testing.assert_array_equal(one.gap, three.gap)
    np.testing.assert_array_equal(one.wrong, three.wrong)


@pytest.mark.parametrize("paired", [True, False])
def test_prompts_drawn_as_wholes_count_once(paired: bool):
    """Every row stands four times: the error must be that of a quarter of the rows."""
    generator = np.random.default_rng(3)
    u, v = generator.normal(1, 1, 60), generator.normal(0, 1, 60)
    labels = np.tile(np.arange(60), 4)
    groups = Groups.of(labels if paired else (labels, labels), 240, 240, paired=paired)
    assert groups is not None
    assert groups.independent == 60
    frame = Frame.of(np.tile(u, 4), np.tile(v, 4), LEVELS, paired=paired)
    draws = resampling.bootstrap(frame, Plan(paired, groups), 2000, 0)
    expected = np.std(u - v) / np.sqrt(60)  # unpaired, prompts join the sides all the same
    assert draws.mean_gap.std() == pytest.approx(expected, rel=0.08)


def test_labels_that_join_nothing_are_no_groups():
    assert Groups.of(np.arange(5), 5, 5, paired=True) is None
    assert Groups.of((np.arange(5), np.arange(5, 8)), 5, 3, paired=False) is None
    assert Groups.of(None, 5, 5, paired=True) is None


def test_resamples_without_one_of_the_sides_are_left_out():
    groups = Groups.of((["a", "a", "b"], ["c"]), 3, 1, paired=False)
    frame = Frame.of(np.array([1.0, 2.0, 3.0]), np.array([0.0]), LEVELS, paired=False)
    draws = resampling.bootstrap(frame, Plan(False, groups), 500, 0)
    # Of the 27 ways to draw three of three prompts, 8 miss the one with v, and 1 has nothing else.
    assert draws.auc.size / 500 == pytest.approx(18 / 27, abs=0.07)
    np.testing.assert_array_equal(draws.auc, 1.0)


def test_strata_are_weighted_anew_in_every_resample():
    """Reward is a function of length: at equal lengths nothing is left, whatever was drawn."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 4, 80), generator.integers(1, 5, 90)
    u, v = (2.0 * side.astype(np.float64) for side in lengths)
    frame = Frame.of(u, v, LEVELS, paired=False)
    plan = Plan(False, strata=Strata.of(*lengths, fewest=5))
    draws = resampling.bootstrap(frame, plan, 50, 0)
    np.testing.assert_allclose(draws.mean_gap, 0, atol=1e-12)
    np.testing.assert_allclose(draws.wrong + draws.right, 0, atol=1e-12)
    plain = resampling.bootstrap(frame, Plan(False), 50, 0)
    assert plain.mean_gap.max() < -1


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
    monkeypatch.setattr(resampling, "_BLOCK", 700)  # several blocks, the last one partly filled
    u, v, levels = np.array([2.0, 0.1, 3.0]), np.array(v), np.array([0.1, 0.55, 0.9])
    draws = _bootstrap(u, v, levels, paired=paired, resamples=20_000, seed=1)
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
    first, again, other = (_bootstrap(u, v, levels, paired=False, resamples=50, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.mean_gap, again.mean_gap)
    assert not np.array_equal(first.mean_gap, other.mean_gap)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """95 % intervals of 300 samples: 91 % to 99 %, for three standard errors and percentile bias."""
    generator, shift = np.random.default_rng(5), 0.8
    truth = {"auc": norm.cdf(shift / np.sqrt(2)), "mean_gap": shift, "gap": shift}
    hits = dict.fromkeys(truth, 0)
    for trial in range(300):
        u, v = generator.normal(shift, 1, 80), generator.normal(0, 1, 60)
        draws = _bootstrap(u, v, np.array([0.5]), paired=False, resamples=300, seed=trial)
        for name, value in truth.items():
            low, high = percentile_interval(getattr(draws, name), 0.025)
            hits[name] += bool(np.all((low <= value) & (value <= high)))
    assert all(0.91 <= count / 300 <= 0.99 for count in hits.values()), hits


def test_joint_resampling_narrows_the_interval_of_correlated_pairs():
    generator = np.random.default_rng(0)
    base = generator.normal(0, 5, 200)
    u, v = base + generator.normal(1, 0.5, 200), base
    widths = []
    for paired in (True, False):
        low, high = percentile_interval(
            _bootstrap(u, v, np.array([0.5]), paired=paired, resamples=400, seed=0).mean_gap, 0.025
        )
        widths.append(high - low)
    # Standard errors by hand: 0.5 / sqrt(200) for pairs, 5 * sqrt(2 / 200) for independent sides.
    assert widths[0] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.2)
    assert widths[1] == pytest.approx(2 * 1.96 * 5 * np.sqrt(2 / 200), rel=0.2)
