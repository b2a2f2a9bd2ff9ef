"""The estimate of what a sort group's size adds to the loss, against closed forms and a known population.

Two populations whose bias is known without our estimator: uniform laws that coincide, under a squared hinge of margin
0, where E OT_n = 1/(6(n+1)) and the population cost is 0 (docs/concepts/theory.md); and normal laws under the logistic
cost, whose population value is an integral over levels.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from distal.objectives import SequenceScores, get_objective
from distal.training.health import sort_group_bias
from distal.transport import LogisticCost, SquaredHingeCost


def samples(u, v):
    return SequenceScores(u, v, torch.zeros_like(u), torch.zeros_like(v))


def pairs(u, v):
    """Policy margins u, reference margins v."""
    zero = torch.zeros_like(u)
    return SequenceScores.from_pairs(u, zero, v, zero)


def estimate(objective, scores) -> Any:
    return sort_group_bias(objective, scores)


def mean_bias(objective, draw, repetitions, group=None):
    """Mean estimate over repetitions, and its standard error."""
    found = torch.tensor([estimate(objective, draw()).bias for _ in range(repetitions)])
    return found.mean().item(), found.std().item() / repetitions**0.5


def test_two_samples_by_hand():
    """U = (0, 4), v = (1, 3): sorted gaps -1, 1 cost 1/2; the halves are some pairing, each with cost (u - v)_-^2."""
    objective = get_objective("aot_unpaired", cost="squared_hinge", margin=0.0)
    found = estimate(objective, samples(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 3.0])))
    assert (found.size, found.cost) == (2, 0.5)
    straight, crossed = 0.5 - 0.5, 9 / 2 - 0.5  # (0,1),(4,3) and (0,3),(4,1)
    assert found.bias in (pytest.approx(straight), pytest.approx(crossed))


def test_groups_of_one_against_the_whole_by_hand():
    """sort_group=1 pairs as they come: bias = (unsorted mean - sorted mean) + that of the whole, by halving."""
    u, v = torch.tensor([0.0, 4.0, 2.0, 6.0]), torch.tensor([5.0, 1.0, 3.0, 1.0])
    cost = SquaredHingeCost(0.0)
    whole = get_objective("aot", cost="squared_hinge", margin=0.0)
    single = get_objective("aot", cost="squared_hinge", margin=0.0, sort_group=1)
    unsorted, ordered = cost(u - v).mean().item(), cost(u.sort().values - v.sort().values).mean().item()
    found = estimate(single, pairs(u, v))
    assert found.size == 1
    assert found.cost == pytest.approx(unsorted)
    assert found.bias == pytest.approx(unsorted - ordered + estimate(whole, pairs(u, v)).bias)


@pytest.mark.parametrize("n", [8, 32])
def test_uniform_laws_that_coincide(n):
    """E estimate = 1/(6(n/2 + 1)) - 1/(6(n + 1)), which is n/(n + 2) of the bias 1/(6(n + 1))."""
    generator = torch.Generator().manual_seed(n)
    objective = get_objective("aot_unpaired", cost="squared_hinge", margin=0.0)

    def draw():
        return samples(*torch.rand(2, n, dtype=torch.float64, generator=generator))

    mean, error = mean_bias(objective, draw, 800)
    expected = 1 / (6 * (n / 2 + 1)) - 1 / (6 * (n + 1))
    assert expected == pytest.approx(n / (n + 2) / (6 * (n + 1)))
    assert mean == pytest.approx(expected, abs=4 * error)
    assert error < expected / 8, "the test could not tell the estimate from half of it"


@pytest.mark.parametrize(("group", "unequal"), [(None, False), (None, True), (8, False)])
def test_normal_laws_against_their_population_value(group, unequal):
    """N(1, 1.5^2) over N(0, 1), logistic: the bias is E OT_b - OT, both computed here without the estimator."""
    n, generator = 32, torch.Generator().manual_seed(5)
    objective = get_objective("aot_unpaired", beta=1.0, sort_group=group)
    cost = LogisticCost(1.0)

    def draw(count=1):
        u = 1 + 1.5 * torch.randn(count, n, dtype=torch.float64, generator=generator)
        v = torch.randn(count, 2 * n if unequal else n, dtype=torch.float64, generator=generator)
        return u, v

    levels = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    population = cost(1 + 0.5 * torch.special.ndtri(levels)).mean().item()
    b = group or n
    u, v = draw(60_000)
    u, v = u[:, :b].sort(-1).values, v[:, : 2 * b if unequal else b].sort(-1).values
    if unequal:
        u = u.repeat_interleave(2, dim=-1)
    truth = cost(u - v).mean().item() - population

    mean, error = mean_bias(objective, lambda: samples(*(x[0] for x in draw())), 800)
    # The halving leaves out what decays faster than 1/b: at 32 samples about a fifth.
    assert 0.7 * truth - 3 * error <= mean <= truth + 3 * error
    assert error < truth / 6


def test_it_is_never_negative_at_first_order():
    """Joint convexity, for every way of cutting the batch into halves."""
    objective = get_objective("aot_unpaired", beta=1.0)
    generator = torch.Generator().manual_seed(0)
    for n, m in itertools.product((2, 3, 8), (2, 5, 8)):
        u = 3 * torch.randn(n, dtype=torch.float64, generator=generator)
        v = torch.randn(m, dtype=torch.float64, generator=generator)
        assert estimate(objective, samples(u, v)).bias >= -1e-12


def test_reference_margins_equal_to_the_policys_have_no_bias():
    """Before the first step: sorted or not, every gap is 0."""
    u = torch.randn(16, generator=torch.Generator().manual_seed(1))
    assert estimate(get_objective("aot", sort_group=4), pairs(u, u)).bias == pytest.approx(0, abs=1e-6)


def test_a_single_pair_has_no_halves():
    found = estimate(get_objective("aot"), pairs(torch.ones(1), torch.zeros(1)))
    assert (found.size, found.bias) == (1, None)


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto", "hinge", "sft"])
def test_objectives_that_sort_nothing_have_none(name):
    assert estimate(get_objective(name), pairs(torch.ones(4), torch.zeros(4))) is None


def test_a_mix_counts_its_sorted_parts_by_weight():
    u, v = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    scores = pairs(3 * u, v)
    aot = {"objective": "aot", "beta": 1.0}
    alone = estimate(get_objective("aot", beta=1.0), scores)
    parts = [{**aot, "weight": 2.0}, {"objective": "dpo"}, {**aot, "sort_group": 4}]
    grouped = estimate(get_objective("aot", beta=1.0, sort_group=4), scores)
    found = estimate(get_objective("mix", parts=parts), scores)
    assert found.size == 4
    assert found.cost == pytest.approx(2 * alone.cost + grouped.cost)
    assert found.bias == pytest.approx(2 * alone.bias + grouped.bias)
    assert estimate(get_objective("mix", parts=[{"objective": "dpo"}]), scores) is None
