"""Gradients of every objective, and of every combination of AOT's options, against finite differences in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from distal.objectives import Objective, SequenceScores, get_objective, objective_names
from distal.objectives.grouping import sort_groups
from distal.transport import SmoothedCost, soft_sort
from tests.objectives.batches import random_pairs, random_samples
from tests.transport.oracles import COSTS, fourth_order_difference, normal

LOW, HIGH = 1e-9, 1e-7
"""Tolerances, absolute and relative."""


def gradient(objective: Objective, scores: SequenceScores) -> Tensor:
    wanted = scores.policy_chosen, scores.policy_rejected
    return torch.cat(torch.autograd.grad(objective(scores).loss, wanted, materialize_grads=True))


def loss_of(objective: Objective, scores: SequenceScores, both: Tensor) -> Tensor:
    """Loss with other policy scores, chosen ones first."""
    n = scores.policy_chosen.numel()
    return objective(replace(scores, policy_chosen=both[:n], policy_rejected=both[n:])).loss


def policy(scores: SequenceScores) -> Tensor:
    return torch.cat([scores.policy_chosen, scores.policy_rejected]).detach()


def check(objective: Objective, scores: SequenceScores) -> None:
    numerical = fourth_order_difference(lambda x: loss_of(objective, scores, x), policy(scores))
    torch.testing.assert_close(gradient(objective, scores), numerical, rtol=HIGH, atol=LOW)


def check_along_a_line(objective: Objective, scores: SequenceScores, step: float = 1e-3) -> None:
    """The same in one random direction, which meets every coefficient."""
    at, direction = policy(scores), normal(policy(scores).numel(), seed=17)
    numerical = fourth_order_difference(
        lambda t: loss_of(objective, scores, at + t * direction), torch.zeros(1, dtype=torch.float64), step
    )
    along = (gradient(objective, scores) * direction).sum()[None]
    torch.testing.assert_close(along, numerical, rtol=HIGH, atol=LOW)


# The baseline of kto is a constant of the step by definition: see the test of its own below.
OPTIONS: dict[str, dict[str, Any]] = {
    "kto": {"kl_baseline": "none"},
    "mix": {
        "parts": [
            {"objective": "aot", "weight": 0.5, "cost": "squared_hinge", "margin": 2.0},
            {"objective": "dpo", "label_smoothing": 0.1},
            {"objective": "sft", "weight": 0.1},
        ]
    },
}
SAMPLES_TOO = [name for name in objective_names() if get_objective(name).needs == "unpaired"]


@pytest.mark.parametrize("name", objective_names())
def test_of_pairs(name: str):
    check(get_objective(name, **OPTIONS.get(name, {})), random_pairs(6, seed=3))


@pytest.mark.parametrize("name", SAMPLES_TOO)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 3), (2, 7)])
def test_of_samples_in_any_counts(name: str, n: int, m: int):
    check(get_objective(name, **OPTIONS.get(name, {})), random_samples(n, m, seed=n + 10 * m))


@pytest.mark.parametrize("name", [name for name in objective_names() if get_objective(name).uses_weights])
def test_of_weighted_samples(name: str):
    paired = get_objective(name).needs == "paired"
    scores = random_pairs(6, seed=5) if paired else random_samples(6, 4, seed=5)
    m = scores.policy_rejected.numel()
    weights = normal(6, seed=1).square()
    weights[2] = 0.0
    weighted = replace(
        scores, chosen_weights=weights, rejected_weights=weights if scores.paired else normal(m, seed=2).abs()
    )
    options = (
        {"parts": [{"objective": "aot"}, {"objective": "sft"}]} if name == "mix" else OPTIONS.get(name, {})
    )
    check(get_objective(name, **options), weighted)
    assert gradient(get_objective(name, **options), weighted)[2] == 0


@pytest.mark.parametrize("shift", [-4.0, 4.0])
def test_baseline_of_kto_is_a_constant_of_the_step(shift: float):
    scores = random_samples(5, 3, seed=2)
    scores = replace(
        scores, policy_chosen=scores.policy_chosen + shift, policy_rejected=scores.policy_rejected + shift
    )
    output = get_objective("kto")(scores)
    baseline = output.metrics["kl_baseline"]
    assert (float(baseline) > 0) == (shift > 0)
    # The same number handed in from outside: its gradient is that of a constant, whatever it was computed from.
    fixed = replace(scores, mismatched_rewards=torch.as_tensor(baseline)[None])
    outside = get_objective("kto", kl_baseline="mismatched")
    torch.testing.assert_close(
        gradient(get_objective("kto"), scores), gradient(outside, fixed), rtol=0, atol=0
    )
    numerical = fourth_order_difference(lambda x: loss_of(outside, fixed, x), policy(scores))
    torch.testing.assert_close(gradient(outside, fixed), numerical, rtol=HIGH, atol=LOW)


# --- every combination of cost, sort, smoothing and sort group ----------------------------------------------------

NAMED: dict[str, dict[str, Any]] = {
    "logistic": {"cost": "logistic", "beta": 0.7},
    "hinge": {"cost": "hinge", "margin": 0.3},
    "squared_hinge": {"cost": "squared_hinge", "margin": 0.5},
    "least_squares": {"cost": "least_squares", "margin": -0.4},
    "quartic": {"cost": COSTS["quartic"]},
}
SORTS: dict[str, dict[str, Any]] = {
    "hard": {},
    "l2": {"sort": "soft", "soft_sort_strength": 0.4},
    "entropic": {"sort": "soft", "soft_sort_strength": 0.4, "soft_sort_regularization": "entropic"},
}
COMBINATIONS = list(product(NAMED, SORTS, [0.0, 0.2], [None, 1, 2]))


def by_hand(
    scores: SequenceScores, paired: bool, cost: str, sort: str, smoothing: float, group: int | None
) -> Tensor:
    """The loss from its definition, for equal counts."""
    u, v = (
        (scores.policy_margin, scores.reference_margin)
        if paired
        else (scores.reward_chosen, scores.reward_rejected)
    )
    n, h = u.numel(), SmoothedCost(COSTS[cost], smoothing)
    one = torch.ones(n, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for _, i, j, *_ in sort_groups(one, one, group or n, seed=0, paired=scores.paired):
        if sort == "hard":
            ordered = u[i].sort().values, v[j].sort().values
        else:
            ordered = tuple(soft_sort(x, 0.4, sort) for x in (u[i], v[j]))  # pyright: ignore[reportArgumentType]
        total = total + h(ordered[0] - ordered[1]).sum() / n
    return total


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
@pytest.mark.parametrize(("cost", "sort", "smoothing", "group"), COMBINATIONS)
def test_of_every_combination(name: str, cost: str, sort: str, smoothing: float, group: int | None):
    scores = random_pairs(5, seed=11)
    objective = get_objective(name, **NAMED[cost], **SORTS[sort], label_smoothing=smoothing, sort_group=group)
    expected = by_hand(scores, name == "aot", cost, sort, smoothing, group)
    torch.testing.assert_close(objective(scores).loss, expected, rtol=1e-13, atol=1e-13)
    if group == 1 and sort == "hard":
        torch.testing.assert_close(
            expected, SmoothedCost(COSTS[cost], smoothing)(scores.reward_margin).mean(), rtol=1e-12, atol=0
        )
    check_along_a_line(objective, scores)


@pytest.mark.parametrize("name", ["aot2", "aot2_unpaired"])
@pytest.mark.parametrize(("cost", "sort", "smoothing", "group"), COMBINATIONS)
def test_of_every_combination_at_second_order(
    name: str, cost: str, sort: str, smoothing: float, group: int | None
):
    options = {**NAMED[cost], **SORTS[sort], "label_smoothing": smoothing, "sort_group": group}
    # A hinge has a kink at each of hundreds of nodes, so the step is small and the difference less exact.
    check_along_a_line(get_objective(name, **options), random_pairs(5, seed=11), step=1e-6)
