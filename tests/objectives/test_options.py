"""Options of the transport objectives: soft sort, sort groups, sample weights, level weights, second order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distal.objectives import SequenceScores, get_objective
from distal.transport import Cost, LogisticCost, QuantileBand, soft_sort, transport_cost
from distal.transport.soft_sorting import Regularization
from tests.objectives.batches import batches_of_pairs, random_pairs, random_samples
from tests.transport.oracles import COSTS, each_cost, normal

all_aot = pytest.mark.parametrize("name", ["aot", "aot_unpaired", "aot2", "aot2_unpaired"])
first_order = pytest.mark.parametrize("name", ["aot", "aot_unpaired"])


def repeated(scores: SequenceScores, copies: torch.Tensor) -> SequenceScores:
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    return SequenceScores.from_pairs(*(x.repeat_interleave(copies) for x in fields))


# --- soft sort ----------------------------------------------------------------------------------------------


@all_aot
@pytest.mark.parametrize("regularization", ["l2", "entropic"])
def test_soft_sort_does_nothing_while_gaps_are_small(name: str, regularization: str):
    scores = random_pairs(12, seed=1)
    options = {"sort": "soft", "soft_sort_strength": 1e-3, "soft_sort_regularization": regularization}
    assert get_objective(name, **options)(scores).loss == get_objective(name)(scores).loss


@pytest.mark.parametrize("regularization", ["l2", "entropic"])
def test_soft_sort_of_both_laws(regularization: Regularization):
    scores = random_samples(7, 7, scale=30)
    u, v = (soft_sort(x, 0.1, regularization) for x in (scores.reward_chosen, scores.reward_rejected))
    loss = get_objective("aot_unpaired", sort="soft", soft_sort_regularization=regularization)(scores).loss
    torch.testing.assert_close(loss, LogisticCost(0.01)(u - v).mean())
    assert loss != get_objective("aot_unpaired")(scores).loss


@pytest.mark.parametrize("regularization", ["l2", "entropic"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("sort_group", [None, 1, 3])
@all_aot
def test_soft_sorted_loss_before_the_first_step(
    name: str, regularization: str, label_smoothing: float, sort_group: int | None
):
    reference = random_pairs(7, scale=50).policy_chosen.detach(), random_pairs(7).policy_rejected.detach()
    scores = SequenceScores.from_pairs(*reference, *reference)
    options = {"label_smoothing": label_smoothing, "sort_group": sort_group, "sort": "soft"}
    objective = get_objective(name, soft_sort_regularization=regularization, **options)
    assert objective(scores).loss.item() == pytest.approx(math.log(2), rel=1e-12)


def test_soft_sort_refuses_weights():
    scores = SequenceScores.from_pairs(*torch.zeros(4, 3), weights=torch.ones(3))
    with pytest.raises(ValueError, match="sort='soft' mixes samples, so it cannot carry sample weights"):
        get_objective("aot", sort="soft")(scores)


# --- sort groups --------------------------------------------------------------------------------------------


@first_order
@given(scores=batches_of_pairs(7), label_smoothing=st.sampled_from([0.0, 0.2]))
def test_groups_of_one_pair_are_dpo(name: str, scores: SequenceScores, label_smoothing: float):
    options = {"beta": 0.3, "label_smoothing": label_smoothing}
    grouped = get_objective(name, sort_group=1, **options)(scores).loss
    torch.testing.assert_close(grouped, get_objective("dpo", **options)(scores).loss)


@pytest.mark.parametrize("size", [9, 10, 1000])
@pytest.mark.parametrize("sort", ["hard", "soft"])
def test_a_group_larger_than_the_batch_is_the_batch(size: int, sort: str):
    scores = random_samples(9, 13, scale=30)
    objective, whole = (get_objective("aot_unpaired", sort=sort, sort_group=k) for k in (size, None))
    torch.testing.assert_close(objective(scores).loss, whole(scores).loss)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_samples_without_weight_take_no_place_in_a_group(size: int):
    scores, copies = random_pairs(7, seed=4), torch.tensor([1, 0, 1, 0, 0, 1, 1])
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    weighted = SequenceScores.from_pairs(*fields, weights=copies.double())
    for name in ("aot", "aot_unpaired"):
        objective = get_objective(name, beta=0.4, sort_group=size)
        torch.testing.assert_close(objective(weighted).loss, objective(repeated(scores, copies)).loss)
    # The sides of unpaired samples lose different numbers of them.
    sides = random_samples(6, 9, seed=2)
    weights = torch.tensor([1.0, 0, 1, 0, 0, 1]), torch.tensor([0.0, 1, 1, 0, 1, 1, 1, 1, 1])
    kept = [weight > 0 for weight in weights]
    weighted = replace(sides, chosen_weights=weights[0], rejected_weights=weights[1])
    without = SequenceScores(
        sides.policy_chosen[kept[0]],
        sides.policy_rejected[kept[1]],
        sides.reference_chosen[kept[0]],
        sides.reference_rejected[kept[1]],
    )
    objective = get_objective("aot_unpaired", sort_group=size)
    torch.testing.assert_close(objective(weighted).loss, objective(without).loss)


def test_groups_of_one_pair_do_not_couple_the_batch():
    assert not get_objective("aot", sort_group=1).couples_batch
    assert get_objective("aot", sort_group=2).couples_batch
    # Unpaired samples have no pair to fall back on: their partner is drawn from the batch.
    assert get_objective("aot_unpaired", sort_group=1).couples_batch


@all_aot
def test_a_group_as_large_as_the_batch_changes_nothing(name: str):
    scores = random_pairs(9)
    torch.testing.assert_close(
        get_objective(name, sort_group=9)(scores).loss, get_objective(name)(scores).loss
    )


@first_order
@each_cost
def test_smaller_groups_never_lower_the_loss(name: str, cost: Cost):
    scores = random_pairs(24, seed=5)
    whole = get_objective(name, cost=cost)(scores).loss
    for size in (1, 3, 5, 8):
        for seed in range(3):
            loss = get_objective(name, cost=cost, sort_group=size, sort_group_seed=seed)(scores).loss
            assert loss >= whole - 1e-12


def test_groups_of_uneven_size_weigh_by_their_samples():
    scores = random_pairs(10, seed=2)
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    order = torch.randperm(10, generator=torch.Generator().manual_seed(4))
    parts = [SequenceScores.from_pairs(*(x[i] for x in fields)) for i in (order[:4], order[4:7], order[7:])]
    losses = [get_objective("aot")(part).loss for part in parts]
    expected = (4 * losses[0] + 3 * losses[1] + 3 * losses[2]) / 10
    torch.testing.assert_close(get_objective("aot", sort_group=4, sort_group_seed=4)(scores).loss, expected)


weights_of_side = st.lists(st.integers(0, 4), min_size=9, max_size=9)


@each_cost
@given(
    counts=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    weights=st.one_of(st.none(), st.tuples(weights_of_side, weights_of_side)),
    size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_groups_never_lower_the_loss_of_unequal_counts_and_weights(
    cost: Cost, counts: tuple[int, int], weights: tuple[list[int], list[int]] | None, size: int, seed: int
):
    scores = random_samples(*counts, seed=seed)
    if weights is not None:
        # A third more than whole numbers, so that cuts fall between digits.
        a, b = (torch.tensor(w[:k]).double() / 3 + 0.1 for w, k in zip(weights, counts, strict=True))
        scores = replace(scores, chosen_weights=a, rejected_weights=b)
    options = {"cost": cost, "sort_group": size, "sort_group_seed": seed}
    whole = get_objective("aot_unpaired", cost=cost)(scores).loss
    grouped = get_objective("aot_unpaired", **options)(scores).loss
    assert grouped >= whole - 1e-12 * (1 + whole.abs())


@given(
    counts=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    weights=st.one_of(st.none(), st.tuples(weights_of_side, weights_of_side)),
    size=st.integers(1, 4),
)
def test_coefficients_in_groups_are_as_the_weights(
    counts: tuple[int, int], weights: tuple[list[int], list[int]] | None, size: int
):
    """Under a cost of slope -1 everywhere a sample's coefficient is its share of the law, in whichever groups it is."""
    scores = random_samples(*counts)
    a, b = (torch.ones(k, dtype=torch.float64) for k in counts)
    if weights is not None:
        a, b = (torch.tensor(w[:k]).double() for w, k in zip(weights, counts, strict=True))
        a[0], b[0] = a[0] + 1, b[0] + 1
        scores = replace(scores, chosen_weights=a, rejected_weights=b)
    loss = get_objective("aot_unpaired", cost=lambda gap: -gap, sort_group=size)(scores).loss
    on_u, on_v = torch.autograd.grad(loss, (scores.policy_chosen, scores.policy_rejected))
    torch.testing.assert_close(on_u, -a / a.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(on_v, b / b.sum(), rtol=1e-12, atol=0)


def test_unequal_counts_in_groups_by_hand():
    # Two groups of u = (0, 3): one each. Of three v the middle one of the draw is cut in halves.
    u, v = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 2.0, 4.0])
    zero = torch.zeros(2), torch.zeros(3)
    found = {
        get_objective("aot_unpaired", cost=torch.square, sort_group=1, sort_group_seed=seed)(
            SequenceScores(u, v, *zero)
        ).loss.item()
        for seed in range(60)
    }
    # Each group holds a whole v with weight 2/3 and the halved one with 1/3.
    expected = set[float]()
    for first, cut, last in permutations(v.tolist()):
        costs = ((2 * (x - w) ** 2 + (x - cut) ** 2) / 3 for x, w in ((0.0, first), (3.0, last)))
        expected.add(sum(costs) / 2)
    assert sorted(found) == pytest.approx(sorted(expected))


def test_a_heavy_sample_enters_several_groups_by_hand():
    # Of u = (0, 3) with weights 3 and 1 the first fills one of two groups, and half of the other.
    u, v, weights = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0])
    zero = torch.zeros(2)
    scores = SequenceScores(u, v, zero, zero, chosen_weights=weights, rejected_weights=torch.full((2,), 5.0))
    found = {
        get_objective("aot_unpaired", cost=torch.square, sort_group=1, sort_group_seed=seed)(
            scores
        ).loss.item()
        for seed in range(30)
    }
    expected = {(w**2 + (x**2 + (3 - x) ** 2) / 2) / 2 for w, x in ((1.0, 4.0), (4.0, 1.0))}
    assert sorted(found) == pytest.approx(sorted(expected))


def test_unequal_counts_split_both_sides():
    scores = random_samples(6, 13)
    loss = get_objective("aot_unpaired", sort_group=2)(scores).loss
    assert loss >= get_objective("aot_unpaired")(scores).loss
    assert loss != get_objective("aot_unpaired", sort_group=2, sort_group_seed=1)(scores).loss
    assert loss == get_objective("aot_unpaired", sort_group=2)(scores).loss


# --- sample weights -----------------------------------------------------------------------------------------


@first_order
@given(scores=batches_of_pairs(5), data=st.data())
def test_whole_weights_count_as_copies(name: str, scores: SequenceScores, data: st.DataObject):
    n = scores.policy_chosen.numel()
    copies = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any)))
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    weighted = SequenceScores.from_pairs(*fields, weights=copies)
    expected = get_objective(name, beta=0.4)(repeated(scores, copies))
    output = get_objective(name, beta=0.4)(weighted)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(
        *(x.metrics["dominance/batch_violation_ratio"] for x in (output, expected)), equal_nan=True
    )


def test_weights_of_samples_are_split_by_label():
    policy, reference = normal(2, 5, seed=1)
    desirable = torch.tensor([True, False, True, False, False])
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0])
    scores = SequenceScores.from_samples(policy, reference, desirable, weights=weights)
    rewards = policy - reference
    expected = transport_cost(
        rewards[desirable],
        rewards[~desirable],
        COSTS["hinge"],
        u_weights=torch.tensor([1.0, 3.0]),
        v_weights=torch.tensor([2.0, 4.0, 0.0]),
    )
    torch.testing.assert_close(get_objective("aot_unpaired", cost="hinge", margin=0.3)(scores).loss, expected)


WEIGHTED = {
    "aot": {"beta": 0.3},
    "aot_unpaired": {"cost": "squared_hinge", "margin": 3.0},
    "aot2": {},
    "aot2_unpaired": {},
    "dpo": {"label_smoothing": 0.1},
    "ipo": {},
    "hinge": {},
    "kto": {"desirable_weight": 2.0},
    "mix": {"parts": [{"objective": "aot"}, {"objective": "sft", "per_token": True}]},
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_whole_weights_are_repetitions(name: str):
    """Loss and gradient of weights 1, 3, 2, ... are those of samples that stand there so often."""
    weights = torch.tensor([1, 3, 2, 1, 5])
    pairs = random_pairs(5, scale=3)
    sides = (
        pairs.policy_chosen,
        pairs.policy_rejected,
        pairs.reference_chosen,
        pairs.reference_rejected,
    )
    leaves = [side.detach().requires_grad_() for side in sides]
    lengths = torch.tensor([3, 1, 4, 1, 5])
    objective = get_objective(name, **WEIGHTED[name])
    repeated = SequenceScores.from_pairs(
        *(leaf.repeat_interleave(weights) for leaf in leaves),
        chosen_lengths=lengths.repeat_interleave(weights),
    )
    expected = objective(repeated).loss
    found = objective(
        SequenceScores.from_pairs(*leaves, weights=weights.double() / 7, chosen_lengths=lengths)
    ).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(expected, leaves[:2], allow_unused=True)
    for mine, right in zip(torch.autograd.grad(found, leaves[:2], allow_unused=True), wanted, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


def test_bad_weights():
    with pytest.raises(ValueError, match="chosen_weights must be finite and non-negative"):
        SequenceScores.from_pairs(*torch.zeros(4, 2), weights=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="chosen_weights and rejected_weights must be given together"):
        SequenceScores(*torch.zeros(4, 2), chosen_weights=torch.ones(2))
    with pytest.raises(ValueError, match="rejected_weights must have a positive sum"):
        SequenceScores.from_samples(
            torch.zeros(2), torch.zeros(2), torch.tensor([True, False]), weights=torch.tensor([1.0, 0.0])
        )


# --- weights of levels --------------------------------------------------------------------------------------


@first_order
def test_a_band_counts_only_its_order_statistics(name: str):
    scores = random_pairs(8, seed=6)
    laws = {
        "aot": (scores.policy_margin, scores.reference_margin),
        "aot_unpaired": (scores.reward_chosen, scores.reward_rejected),
    }[name]
    u, v = (x.sort().values for x in laws)
    # Levels [1/4, 5/8] hold the third, fourth and fifth of eight order statistics.
    loss = get_objective(name, quantile_weighting=[0.25, 0.625])(scores).loss
    torch.testing.assert_close(loss, LogisticCost(0.01)(u - v)[2:5].mean())


def test_a_band_between_breakpoints_on_unequal_counts():
    scores = random_samples(3, 5)
    levels = (np.arange(600_000) + 0.5) / 600_000
    u, v = (x.detach().sort().values for x in (scores.reward_chosen, scores.reward_rejected))
    gap = u[np.ceil(3 * levels).astype(int) - 1] - v[np.ceil(5 * levels).astype(int) - 1]
    inside = torch.from_numpy((levels > 0.1) & (levels < 0.5))
    expected = LogisticCost(2.0)(gap)[inside].mean()
    loss = get_objective("aot_unpaired", beta=2.0, quantile_weighting=(0.1, 0.5))(scores).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_weights_of_levels_are_linear_in_the_cumulative_weight():
    scores = random_pairs(7)
    lower, upper = QuantileBand(0.0, 0.3), QuantileBand(0.3, 1.0)
    parts = [get_objective("aot", quantile_weighting=band)(scores).loss for band in (lower, upper)]
    both = get_objective("aot", quantile_weighting=lambda t: 0.3 * lower(t) + 0.7 * upper(t))(scores).loss
    torch.testing.assert_close(0.3 * parts[0] + 0.7 * parts[1], both)
    torch.testing.assert_close(both, get_objective("aot")(scores).loss)


@pytest.mark.parametrize(
    "weighting", [lambda t: 2 * t, lambda t: 1 - t, torch.ones_like, lambda t: t + (t * 7).sin()]
)
def test_bad_weights_of_levels(weighting: object):
    with pytest.raises(ValueError, match="quantile weighting must be a cumulative weight"):
        get_objective("aot", quantile_weighting=weighting)(random_pairs(9))


# --- ties ---------------------------------------------------------------------------------------------------


TIED: list[tuple[str, dict[str, object]]] = [
    ("aot2_unpaired", {}),
    ("aot2_unpaired", {"cost": "squared_hinge", "margin": 1.0, "sort_group": 9}),
    ("aot_unpaired", {"quantile_weighting": [0.0, 0.25]}),
    ("aot_unpaired", {}),
]


@pytest.mark.parametrize(("name", "options"), TIED)
@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 5)])
def test_before_the_first_step_all_samples_of_a_side_are_treated_alike(
    name: str, options: dict[str, object], n: int, m: int
):
    reference = random_samples(n, m)
    policy = [
        x.detach().clone().requires_grad_()
        for x in (reference.reference_chosen, reference.reference_rejected)
    ]
    scores = SequenceScores(policy[0], policy[1], reference.reference_chosen, reference.reference_rejected)
    on_u, on_v = torch.autograd.grad(get_objective(name, **options)(scores).loss, policy)
    assert on_u[0] < 0
    torch.testing.assert_close(on_u, on_u[:1].expand(n), rtol=1e-12, atol=0)
    torch.testing.assert_close(on_v, on_v[:1].expand(m), rtol=1e-12, atol=0)
    torch.testing.assert_close(on_v.sum(), -on_u.sum())


def test_tied_samples_share_their_coefficients_by_weight():
    # u = 0, 0, 3 with weights 1, 3, 4 against v = 1, 5, half each: both tied u meet v = 1, whose slope is 2 (0 - 1).
    u = torch.tensor([0.0, 3.0, 0.0], requires_grad=True)
    v = torch.tensor([1.0, 5.0])
    weights = torch.tensor([1.0, 4.0, 3.0]), torch.tensor([1.0, 1.0])
    for order in (slice(None), [2, 1, 0]):
        scores = SequenceScores(
            u[order],
            v,
            torch.zeros(3),
            torch.zeros(2),
            chosen_weights=weights[0][order],
            rejected_weights=weights[1],
        )
        loss = get_objective("aot_unpaired", cost=torch.square)(scores).loss
        assert torch.autograd.grad(loss, u)[0].tolist() == pytest.approx([-2 / 8, -4 * 4 / 8, -6 / 8])
    # Against v = -1, 1, 5 with weights 1, 3, 4 the tied meet both -1 and 1: (2 * 1 * 1 - 2 * 1 * 3) / 8 between them.
    weights, v = (weights[0], torch.tensor([1.0, 3.0, 4.0])), torch.tensor([-1.0, 1.0, 5.0])
    for order in (slice(None), [2, 1, 0]):
        scores = SequenceScores(
            u[order],
            v,
            torch.zeros(3),
            torch.zeros(3),
            chosen_weights=weights[0][order],
            rejected_weights=weights[1],
        )
        loss = get_objective("aot_unpaired", cost=torch.square)(scores).loss
        assert torch.autograd.grad(loss, u)[0].tolist() == pytest.approx([-0.5 / 4, -4 * 4 / 8, -0.5 * 3 / 4])


# --- second order -------------------------------------------------------------------------------------------


SIZES = [(name, n, m) for name in COSTS for n, m in [(40, 40), (30, 50)]]


@pytest.mark.parametrize(("cost", "n", "m"), [*SIZES, ("least_squares", 1, 1), ("least_squares", 3, 5)])
def test_second_order_is_the_integral_of_the_cost_of_the_integrated_gap(cost: str, n: int, m: int):
    scores = random_samples(n, m, seed=8)
    count = 300_000
    levels = (np.arange(count) + 0.5) / count
    u, v = (x.detach().sort().values for x in (scores.reward_chosen, scores.reward_rejected))
    gap = u[np.ceil(n * levels).astype(int) - 1] - v[np.ceil(m * levels).astype(int) - 1]
    integrated = (gap.cumsum(0) - gap / 2) / count
    loss = get_objective("aot2_unpaired", cost=COSTS[cost])(scores).loss
    torch.testing.assert_close(loss, COSTS[cost](integrated).mean(), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 3, 40])
@pytest.mark.parametrize("distance", [-50.0, 0.4, 50.0, 500.0])
def test_second_order_of_one_pair_is_an_integral_whatever_the_number_of_copies(distance: float, copies: int):
    """For one pair D(t) = t (u - v): loss and force by SciPy's adaptive quadrature."""
    quad = pytest.importorskip("scipy.integrate").quad
    knee = [k / abs(distance) for k in (1, 3, 10, 40) if k < abs(distance)]  # where the cost bends

    def integral(function: Callable[[float], float]) -> float:
        return quad(function, 0, 1, points=knee or None, limit=200)[0]

    zero = torch.zeros(copies, dtype=torch.float64)
    margins = torch.full_like(zero, distance).requires_grad_()
    loss = get_objective("aot2", beta=1.0)(SequenceScores.from_pairs(margins, zero, zero, zero)).loss
    (gradient,) = torch.autograd.grad(loss, margins)
    expected = integral(lambda t: float(np.logaddexp(0, -distance * t)))
    force = integral(lambda t: -t * float(np.exp(-np.logaddexp(0, distance * t))))
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert gradient.sum().item() == pytest.approx(force, rel=1e-3)


def test_second_order_of_a_few_samples_is_that_of_many_copies():
    scores = random_samples(2, 3, seed=4, scale=30)
    sides = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    many = SequenceScores(*(side.repeat_interleave(64) for side in sides))
    losses = [get_objective("aot2_unpaired", beta=1.0)(x).loss for x in (scores, many)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
    gradients = [torch.cat(torch.autograd.grad(loss, sides[:2])) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_second_order_hinge_vanishes_exactly_at_second_order_dominance():
    spread, narrow = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 2.9])
    zero = torch.zeros(2)
    objective = get_objective("aot2_unpaired", cost="hinge", margin=0.0)
    # A narrower law with a lower mean: dominated at no order, though below only at the last level.
    below = objective(SequenceScores(narrow, spread, zero, zero))
    assert below.loss > 0
    assert 0 < float(below.metrics["dominance/batch_violation_ratio"]) < 0.01
    above = objective(SequenceScores(narrow + 0.05, spread, zero, zero))
    assert above.loss == 0
    assert float(above.metrics["dominance/batch_violation_ratio"]) == 0


def test_second_order_pulls_the_lower_tail_more():
    scores = random_pairs(40, seed=1, scale=0.1)
    objective = get_objective("aot2", beta=0.01)
    (coefficients,) = torch.autograd.grad(objective(scores).loss, scores.policy_chosen)
    ordered = coefficients[scores.policy_margin.argsort()]
    assert bool((ordered.diff() > 0).all())
    # At small gaps the coefficient of the k-th smallest is -(beta/2)(1 - (k - 1/2)/n)/n.
    expected = -0.005 / 40 * (1 - (torch.arange(40) + 0.5) / 40)
    torch.testing.assert_close(ordered, expected.double(), rtol=2e-2, atol=1e-7)


def test_second_order_before_the_first_step_is_log_two():
    reference = random_pairs(7).policy_chosen.detach(), random_pairs(7).policy_rejected.detach()
    scores = SequenceScores.from_pairs(*reference, *reference)
    assert get_objective("aot2")(scores).loss.item() == pytest.approx(math.log(2))
