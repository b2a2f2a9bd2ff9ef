"""Each measure by hand, and against SciPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distal.objectives import get_objective
from distal.training.batch import ScoredBatch
from distal.training.engine import StepOutput
from distal.training.health.measures import (
    effective_number,
    falling_pairs,
    length_correlation,
    measure,
    surprise_ratio,
    theil_sen,
)
from distal.types import DataKind

floats = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 2))


def batch_of(policy, reference, desirable=None, lengths=None, kind: DataKind = "unpaired"):
    n = len(policy)
    return ScoredBatch(
        kind=kind,
        policy=torch.tensor(policy),
        reference=torch.tensor(reference),
        desirable=torch.tensor([i % 2 == 0 for i in range(n)] if desirable is None else desirable),
        source_row=torch.arange(10, 10 + n),
        completion_length=torch.tensor([5] * n if lengths is None else lengths),
        local=torch.arange(n),
    )


@pytest.mark.parametrize(
    ("coefficients", "number"),
    [([1.0] * 8, 8), ([-1.0, 1.0], 2), ([0.0, 0.0, 5.0], 1), ([3.0, 1.0], 1.6), ([0.0, 0.0], 0)],
)
def test_effective_number(coefficients, number):
    assert effective_number(torch.tensor(coefficients)) == pytest.approx(number)


@given(st.lists(floats, min_size=1, max_size=20), st.floats(0.01, 100))
def test_effective_number_does_not_depend_on_scale_and_lies_between_1_and_n(values, scale):
    values = torch.tensor(values, dtype=torch.float64)
    number = effective_number(values)
    assert number == pytest.approx(effective_number(values * scale), rel=1e-9)
    assert number == 0 if not values.any() else 1 - 1e-9 <= number <= len(values) + 1e-9


@given(st.lists(floats, min_size=3, max_size=25))
def test_slope_is_scipys(values):
    assert theil_sen(values) == pytest.approx(stats.theilslopes(values)[0], abs=1e-9)


@given(st.lists(floats, min_size=3, max_size=15, unique=True))
def test_share_of_falling_pairs_is_kendalls_tau(values):
    """Without ties tau = 1 - 2 * share."""
    tau: Any = stats.kendalltau(range(len(values)), values)[0]
    assert falling_pairs(values) == pytest.approx((1 - tau) / 2)


def test_surprise_ratio_by_hand():
    """Preferred completions cost 6 nats under the policy, 8 under the reference; the other class does not count."""
    batch = batch_of([-2.0, -90.0, -4.0, -90.0], [-3.0, -1.0, -5.0, -1.0])
    assert surprise_ratio(batch) == pytest.approx(6 / 8)
    assert surprise_ratio(batch_of([-1.0, -1.0], [0.0, -1.0])) is None


def test_length_correlation_by_hand():
    """Preferred: rewards rise with length (+1). Others: they fall (-1). Twice as many preferred ones: 1/3."""
    desirable = [True] * 4 + [False] * 2
    rewards, lengths = [0.1, 0.2, 0.3, 0.4, 5.0, 1.0], [3, 4, 8, 9, 2, 7]
    batch = batch_of(rewards, [0.0] * 6, desirable, lengths)
    assert length_correlation(batch) == pytest.approx((4 * 1 + 2 * -1) / 6)


@given(st.lists(st.tuples(floats, st.integers(1, 9)), min_size=3, max_size=20))
def test_length_correlation_of_one_class_is_spearmans_with_ties(rows):
    rewards, lengths = (list(column) for column in zip(*rows, strict=True))
    batch = batch_of([*rewards, 0.0], [0.0] * (len(rows) + 1), [True] * len(rows) + [False], [*lengths, 1])
    found = length_correlation(batch)
    if len(set(rewards)) == 1 or len(set(lengths)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(rewards, lengths)[0])


def test_length_of_the_classes_is_no_correlation():
    """Preferred responses that are longer, with a higher reward, as in most data: within the classes nothing."""
    desirable = [True, True, True, False, False, False]
    batch = batch_of([5.0, 5.2, 5.1, 1.0, 1.2, 1.1], [0.0] * 6, desirable, [20, 20, 20, 3, 3, 3])
    assert length_correlation(batch) is None


def step_of(batch, coefficients):
    return StepOutput(torch.tensor(0.5), batch, torch.tensor(coefficients))


def test_all_measures_of_a_step():
    batch = batch_of([-2.0, -7.0, -4.0, -9.0], [-3.0, -5.0, -5.0, -6.0], lengths=[1, 2, 3, 4], kind="paired")
    found = measure(step_of(batch, [-0.5, 0.5, -0.1, 0.1]), get_objective("aot"), torch.float32)
    assert found["reward_chosen"] == pytest.approx(1)
    assert found["reward_rejected"] == pytest.approx(-2.5)
    assert found["effective_share"] == pytest.approx(1.2**2 / 0.52 / 4)
    assert found["heaviest_rows"] == [10, 11, 12]
    assert found["surprise_ratio"] == pytest.approx(6 / 8)
    assert found["length_correlation"] == pytest.approx(
        -1
    )  # chosen tie: undefined; rejected fall with length
    assert (found["sort_group"], found["group_bias"] is not None) == (2, True)
    assert "sort_group" not in measure(step_of(batch, [1.0] * 4), get_objective("dpo"), torch.float32)


def test_heaviest_rows_are_named_once():
    batch = dataclasses.replace(batch_of([0.0] * 4, [0.0] * 4), source_row=torch.tensor([7, 7, 3, 3]))
    found = measure(step_of(batch, [0.1, -0.2, 0.3, -0.3]), get_objective("dpo"), torch.float32)
    assert found["heaviest_rows"] == [3, 7]


def test_rounding_before_the_first_step_is_no_reward():
    batch = batch_of([-3.0 + 1e-6, -5.0, -4.0, -6.0 - 1e-6], [-3.0, -5.0, -4.0, -6.0], lengths=[1, 2, 3, 4])
    found = measure(step_of(batch, [1.0] * 4), get_objective("aot_unpaired"), torch.float32)
    assert (found["reward_chosen"], found["length_correlation"]) == (0, None)


def test_everything_can_be_written_as_json():
    import json

    batch = batch_of([-1.0, -1.0], [-1.0, -1.0])
    found = measure(step_of(batch, [0.0, 0.0]), get_objective("aot_unpaired", cost="hinge"), torch.float32)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
