"""The dominance test: influence functions by finite differences, standard errors by simulation, and its decisions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distal.transport import bootstrap_violation_ratio, dominance_test, violation_ratio
from distal.transport.clusters import Clusters
from distal.transport.dominance import Order, violation_parts
from distal.transport.influence import contrast
from distal.transport.resampling import bootstrap_ratios
from distal.transport.solver import sort_problem
from tests.transport.oracles import normal

each_order = pytest.mark.parametrize("order", [1, 2])


def weighted_contrast(u: Tensor, v: Tensor, a: Tensor, b: Tensor, order: int, threshold: float) -> float:
    problem = sort_problem(u, v, a, b)
    assert problem.cells is not None
    gap = problem.u[problem.cells.u_rank] - problem.v[problem.cells.v_rank]
    violation, distance = violation_parts(gap, problem.cells.mass, order)
    return (violation - threshold * distance).item()


@each_order
def test_influence_is_the_derivative_in_the_weights(order: int):
    # 1/5 and 1/8 share no inner breakpoint, so that the contrast is smooth in the weights.
    u, v = 1.5 * normal(5, seed=1) + 0.4, normal(8, seed=2)
    found = contrast(u, v, order, 0.3)
    assert found.value.item() == pytest.approx((found.violation - 0.3 * found.distance).item())
    a, b = torch.full_like(u, 1 / 5), torch.full_like(v, 1 / 8)
    for k in range(5):
        towards = torch.eye(5, dtype=torch.float64)[k] - a
        ends = [weighted_contrast(u, v, a + step * towards, b, order, 0.3) for step in (-1e-6, 1e-6)]
        assert found.on_u[k].item() == pytest.approx((ends[1] - ends[0]) / 2e-6, abs=1e-7)
    for k in range(8):
        towards = torch.eye(8, dtype=torch.float64)[k] - b
        ends = [weighted_contrast(u, v, a, b + step * towards, order, 0.3) for step in (-1e-6, 1e-6)]
        assert found.on_v[k].item() == pytest.approx((ends[1] - ends[0]) / 2e-6, abs=1e-7)


@each_order
def test_standard_error_is_the_spread_over_repetitions(order: int):
    noise = normal(2, 400, 150, seed=1)
    found = contrast(0.5 + 2 * noise[0], noise[1], order, 0.25)
    errors = Clusters.singletons(150, 150, paired=False).standard_error(found.on_u, found.on_v)
    # The spread of 400 values is known to about 4 %.
    assert errors.mean().item() == pytest.approx(found.value.std().item(), rel=0.12)


def test_pairs_and_clusters_change_the_standard_error():
    shared = normal(100, seed=1)
    u, v = shared + 0.1 * normal(100, seed=2), shared + 0.1 * normal(100, seed=3)
    found = contrast(u, v, 1, 0.25)
    alone = Clusters.singletons(100, 100, paired=False).standard_error(found.on_u, found.on_v)
    together = Clusters.singletons(100, 100, paired=True).standard_error(found.on_u, found.on_v)
    assert together < alone / 2
    # Four copies of every sample say no more than one: clustered, the error is that of the original.
    copies = contrast(u.repeat(4), v.repeat(4), 1, 0.25)
    labels = torch.arange(100).repeat(4)
    clustered = Clusters.of(labels, 400, 400, paired=True).standard_error(copies.on_u, copies.on_v)
    assert clustered.item() == pytest.approx(together.item())


@each_order
@pytest.mark.parametrize("method", ["asymptotic", "bootstrap"])
def test_clear_cases(order: int, method: str):
    u, v = 2 + normal(60, seed=1), normal(50, seed=2)
    above = dominance_test(u, v, order, method=method, resamples=60)  # pyright: ignore[reportArgumentType]
    assert above.dominates
    assert above.violation_ratio == 0
    assert above.p_value < 0.02
    below = dominance_test(v, u, order, method=method, resamples=60)  # pyright: ignore[reportArgumentType]
    assert not below.dominates
    assert below.p_value > 0.9
    assert below.violation_ratio == violation_ratio(v, u, order)  # pyright: ignore[reportArgumentType]
    assert above.null == f"the violation ratio of order {order} is at least 0.25"


def test_threshold_and_level_decide():
    u, v = 0.6 + 1.7 * normal(200, seed=3), normal(200, seed=4)
    assert 0.02 < violation_ratio(u, v) < 0.4
    p_values = [dominance_test(u, v, threshold=t, resamples=100).p_value for t in (0.05, 0.25, 0.6, 0.9)]
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[0] > 0.1
    assert p_values[-1] < 0.05
    middle = dominance_test(u, v, threshold=0.6, method="asymptotic")
    assert 0 < middle.p_value < 0.2
    for level in (middle.p_value / 2, middle.p_value * 2):
        assert dominance_test(u, v, level=level, threshold=0.6, method="asymptotic").dominates == (
            level > middle.p_value
        )


def test_bootstrap_is_reproducible():
    u, v = 0.3 + 1.5 * normal(40, seed=3), normal(40, seed=4)
    first, again, other = (dominance_test(u, v, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.p_value != other.p_value


def test_coinciding_laws_decide_nothing():
    for method in ("asymptotic", "bootstrap"):
        test = dominance_test(torch.ones(5), torch.ones(7), method=method, resamples=20)  # pyright: ignore[reportArgumentType]
        assert not test.dominates
        assert math.isnan(test.p_value)
        assert math.isnan(test.violation_ratio)


def test_clusters_are_drawn_as_wholes():
    groups = Clusters.of((["a", "b", "a", "c"], ["b", "b", "c"]), 4, 3, paired=False)
    assert (groups.u.tolist(), groups.v.tolist(), groups.count) == ([0, 1, 0, 2], [1, 1, 2], 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        i, j, drawn = groups.resample(generator)
        for position in range(3):
            u_members, v_members = i[drawn.u == position].tolist(), j[drawn.v == position].tolist()
            assert (u_members, v_members) in [([0, 2], []), ([1], [0, 1]), ([3], [2])]


@each_order
@pytest.mark.parametrize("paired", [True, False])
def test_clusters_of_one_pair_test_like_pairs(order: Order, paired: bool):
    u, v = 0.6 + 1.7 * normal(60, seed=3), normal(60, seed=4)
    labels = list(range(60)) if paired else (list(range(60)), list(range(60, 120)))
    plain = dominance_test(u, v, order, threshold=0.5, resamples=800, paired=paired)
    clustered = dominance_test(u, v, order, threshold=0.5, resamples=800, paired=paired, clusters=labels)
    assert clustered.statistic == pytest.approx(plain.statistic)
    assert clustered.p_value == pytest.approx(plain.p_value, abs=0.06)


@each_order
def test_clustered_bootstrap_agrees_with_the_plain_one_on_single_samples(order: int):
    u, v = 0.3 + 1.5 * normal(80, seed=1), normal(80, seed=2)
    plain = bootstrap_ratios(u, v, order, 2000, 0, paired=True)
    clustered = bootstrap_ratios(u, v, order, 2000, 1, paired=True, clusters=list(range(80)))
    assert clustered.mean().item() == pytest.approx(plain.mean().item(), abs=0.03)
    assert clustered.std().item() == pytest.approx(plain.std().item(), rel=0.1)


def test_interval_of_copies_is_that_of_the_original():
    u, v = 0.3 + 1.5 * normal(60, seed=1), normal(60, seed=2)
    labels = [f"prompt {k}" for k in range(60)] * 5
    original = bootstrap_violation_ratio(u, v, paired=True, clusters=labels[:60])
    copies = bootstrap_violation_ratio(u.repeat(5), v.repeat(5), paired=True, clusters=labels)
    assert copies == pytest.approx(original, abs=1e-9)
    naive = bootstrap_violation_ratio(u.repeat(5), v.repeat(5), paired=True)
    assert naive[1] - naive[0] < 0.7 * (copies[1] - copies[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0}, "order must be 1 .* or 2 .*, got 0"),
        ({"level": 0.0}, "level must lie strictly between 0 and 1, got 0.0"),
        ({"threshold": 1.0}, "threshold must lie strictly between 0 and 1, got 1.0"),
        ({"method": "exact"}, "method must be 'asymptotic' or 'bootstrap', got 'exact'"),
        ({"u": [1.0]}, "a test needs two samples of each, got 1 in u and 3 in v"),
        ({"resamples": 1}, "resamples must be at least 2"),
        ({"paired": True}, "paired samples must have equal lengths, got 2 in u and 3 in v"),
        ({"clusters": [1, 2]}, "clusters of unpaired samples must be a tuple"),
        ({"clusters": ([1, 2], [1, 2])}, r"one label per sample, 2 and 3, got \(2,\) and \(2,\)"),
        ({"clusters": ([1, 1], [1, 1, 1])}, "at least two different labels, got 1"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str):
    good: dict[str, object] = {"u": [1.0, 2.0], "v": [0.0, 1.0, 5.0]}
    with pytest.raises(ValueError, match=message):
        dominance_test(**(good | arguments))  # pyright: ignore[reportArgumentType]
