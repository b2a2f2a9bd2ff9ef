"""Losses against TRL's code, finite differences, and the laws that AOT and DPO obey."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distal.objectives import Objective, SequenceScores, get_objective, objective_names
from distal.transport import Cost, transport_cost, violation_ratio
from tests.objectives.batches import batches_of_pairs, random_pairs, random_samples
from tests.objectives.trl_oracle import trl_dpo_loss
from tests.transport.oracles import COSTS, cheapest_pairing, each_cost

AS_IN_TRL = [
    ("aot", "aot"),
    ("aot_unpaired", "aot_unpaired"),
    ("dpo", "sigmoid"),
    ("ipo", "ipo"),
    ("hinge", "hinge"),
]
both_aot = pytest.mark.parametrize("name", ["aot", "aot_unpaired"])


def gradients(objective: Objective, scores: SequenceScores) -> torch.Tensor:
    """Coefficients of all policy scores, chosen ones first."""
    wanted = scores.policy_chosen, scores.policy_rejected
    return torch.cat(torch.autograd.grad(objective(scores).loss, wanted, materialize_grads=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("ours", "theirs"), AS_IN_TRL)
@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_loss_and_gradient_equal_trl(ours: str, theirs: str, n: int, beta: float):
    scores = random_pairs(n, seed=n, scale=10)
    expected = trl_dpo_loss(theirs, scores, beta=beta)
    coefficients = torch.autograd.grad(expected, (scores.policy_chosen, scores.policy_rejected))
    objective = get_objective(ours, beta=beta)
    torch.testing.assert_close(objective(scores).loss, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradients(objective, scores), torch.cat(coefficients), rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore")
@both_aot
def test_label_smoothing_equals_trl(name: str):
    scores = random_pairs(12, seed=4)
    expected = trl_dpo_loss(name, scores, beta=0.2, label_smoothing=0.1)
    loss = get_objective(name, beta=0.2, label_smoothing=0.1)(scores).loss
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0.0)


@pytest.mark.filterwarnings("ignore")
def test_smoothed_dpo_equals_trl_aot_on_one_pair():
    # TRL's sigmoid loss has no label smoothing of its own in 1.16; its aot has, and is DPO on one pair.
    scores = random_pairs(1, seed=4)
    expected = trl_dpo_loss("aot", scores, beta=0.2, label_smoothing=0.1)
    loss = get_objective("dpo", beta=0.2, label_smoothing=0.1)(scores).loss
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0.0)


@both_aot
@given(scores=batches_of_pairs(1), beta=st.sampled_from([0.01, 0.1, 2.0]))
def test_one_pair_is_dpo(name: str, scores: SequenceScores, beta: float):
    aot, dpo = get_objective(name, beta=beta)(scores).loss, get_objective("dpo", beta=beta)(scores).loss
    torch.testing.assert_close(aot, dpo, rtol=1e-14, atol=1e-14)


@both_aot
@each_cost
@given(scores=batches_of_pairs())
def test_aot_never_exceeds_the_same_cost_on_the_given_pairs(name: str, cost: Cost, scores: SequenceScores):
    given_pairs = cost(scores.reward_margin).mean()
    assert get_objective(name, cost=cost)(scores).loss <= given_pairs + 1e-12 * (1 + given_pairs.abs())


@each_cost
def test_aot_equals_the_given_pairing_where_that_is_sorted_already(cost: Cost):
    scores = random_pairs(9, seed=3)
    rewards = scores.reward_chosen.sort().values, scores.reward_rejected.sort().values
    zero = torch.zeros_like(rewards[0])
    sorted_pairs = SequenceScores.from_pairs(*rewards, zero, zero)
    loss = get_objective("aot_unpaired", cost=cost)(sorted_pairs).loss
    torch.testing.assert_close(loss, cost(sorted_pairs.reward_margin).mean(), rtol=1e-14, atol=0)
    # The least co-monotone pairing of the same rewards costs more, unless the cost is a straight line between them.
    reversed_pairs = SequenceScores.from_pairs(rewards[0], rewards[1].flip(0), zero, zero)
    assert loss < cost(reversed_pairs.reward_margin).mean() - 1e-3


@given(scores=batches_of_pairs(5))
def test_paired_aot_is_the_best_pairing_of_policy_and_reference_margins(scores: SequenceScores):
    expected = cheapest_pairing(scores.policy_margin, scores.reference_margin, COSTS["squared_hinge"])
    loss = get_objective("aot", cost="squared_hinge", margin=0.5)(scores).loss
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(scores=batches_of_pairs(5))
def test_unpaired_aot_is_the_best_pairing_of_rewards(scores: SequenceScores):
    expected = cheapest_pairing(scores.reward_chosen, scores.reward_rejected, COSTS["squared_hinge"])
    loss = get_objective("aot_unpaired", cost="squared_hinge", margin=0.5)(scores).loss
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired", "dpo"])
@pytest.mark.parametrize("beta", [0.01, 3.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_before_the_first_step_the_loss_is_log_two(name: str, beta: float, label_smoothing: float):
    reference = random_pairs(7).policy_chosen.detach(), random_pairs(7).policy_rejected.detach()
    scores = SequenceScores.from_pairs(*reference, *reference)
    loss = get_objective(name, beta=beta, label_smoothing=label_smoothing)(scores).loss
    assert loss.item() == pytest.approx(math.log(2), rel=1e-14)


@pytest.mark.parametrize(("n", "m"), [(1, 4), (5, 3), (8, 8)])
@pytest.mark.parametrize("beta", [0.01, 3.0])
def test_before_the_first_step_unpaired_samples_all_tie_at_log_two(n: int, m: int, beta: float):
    reference = random_samples(n, m, scale=50)
    still = replace(
        reference, policy_chosen=reference.reference_chosen, policy_rejected=reference.reference_rejected
    )
    for options in ({}, {"label_smoothing": 0.2}, {"sort_group": 1}, {"quantile_weighting": [0.0, 0.1]}):
        loss = get_objective("aot_unpaired", beta=beta, **options)(still).loss
        assert loss.item() == pytest.approx(math.log(2), rel=1e-14)


@both_aot
@given(scores=batches_of_pairs(), seed=st.integers(0, 99), shift=st.integers(-9, 9))
def test_order_in_the_batch_and_a_common_shift_change_nothing(
    name: str, scores: SequenceScores, seed: int, shift: int
):
    order = torch.randperm(scores.policy_chosen.numel(), generator=torch.Generator().manual_seed(seed))
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    moved = SequenceScores.from_pairs(*(x[order] for x in fields))
    # All chosen policy scores and all rejected ones up alike: margins stay, and both laws of rewards move together.
    moved = replace(
        moved, policy_chosen=moved.policy_chosen + shift, policy_rejected=moved.policy_rejected + shift
    )
    objective = get_objective(name, beta=0.4)
    torch.testing.assert_close(objective(moved).loss, objective(scores).loss)


@both_aot
@given(scores=batches_of_pairs(), factor=st.sampled_from([0.25, 3.0]))
def test_scaling_all_scores_is_scaling_beta(name: str, scores: SequenceScores, factor: float):
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    scaled = SequenceScores.from_pairs(*(factor * x for x in fields))
    torch.testing.assert_close(
        get_objective(name, beta=0.3)(scaled).loss, get_objective(name, beta=0.3 * factor)(scores).loss
    )


@both_aot
@each_cost
def test_refining_a_partition_of_the_batch_never_lowers_the_loss(name: str, cost: Cost):
    scores, objective = random_pairs(24, seed=9), get_objective(name, cost=cost)
    losses: list[float] = []
    for size in (24, 12, 6, 3, 1):
        parts = [
            SequenceScores.from_pairs(
                *(
                    getattr(scores, field)[start : start + size]
                    for field in (
                        "policy_chosen",
                        "policy_rejected",
                        "reference_chosen",
                        "reference_rejected",
                    )
                )
            )
            for start in range(0, 24, size)
        ]
        losses.append(sum(objective(part).loss.item() for part in parts) / len(parts))
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_reference_margins_may_move_to_other_pairs():
    scores = random_pairs(6)
    chosen, rejected = scores.reference_chosen.roll(1), scores.reference_rejected.roll(1)
    moved = SequenceScores.from_pairs(scores.policy_chosen, scores.policy_rejected, chosen, rejected)
    torch.testing.assert_close(get_objective("aot")(moved).loss, get_objective("aot")(scores).loss)


def test_unequal_counts_are_the_transport_cost_of_the_rewards():
    scores = random_samples(7, 4)
    expected = transport_cost(scores.reward_chosen, scores.reward_rejected, COSTS["smoothed"])
    loss = get_objective("aot_unpaired", beta=2.0, label_smoothing=0.2)(scores).loss
    assert loss.item() == expected.item()


def test_coefficients_of_the_two_classes_balance():
    coefficients = gradients(get_objective("aot_unpaired", beta=0.3), random_samples(7, 4))
    assert bool((coefficients[:7] < 0).all())
    assert bool((coefficients[7:] > 0).all())
    assert coefficients.sum().item() == pytest.approx(0.0, abs=1e-15)


def test_flipped_labels_mirror_a_symmetric_cost():
    scores = random_samples(7, 4)
    flipped = SequenceScores(
        scores.policy_rejected, scores.policy_chosen, scores.reference_rejected, scores.reference_chosen
    )
    objective, mirrored = (
        get_objective("aot_unpaired", cost=torch.cosh),
        get_objective("aot_unpaired", beta=0.5),
    )
    torch.testing.assert_close(objective(flipped).loss, objective(scores).loss)
    difference = mirrored(flipped).loss - mirrored(scores).loss
    gap = scores.reward_chosen.mean() - scores.reward_rejected.mean()
    # log(1 + e^x) - log(1 + e^-x) = x, so the logistic losses differ by the mean gap exactly.
    torch.testing.assert_close(difference, 0.5 * gap)


@pytest.mark.parametrize(
    "name", [name for name in objective_names() if not get_objective(name).couples_batch]
)
def test_decoupled_objectives_are_plain_means_over_pairs(name: str):
    scores, objective = random_pairs(5), get_objective(name)
    fields = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    alone = [objective(SequenceScores.from_pairs(*(x[i : i + 1] for x in fields))).loss for i in range(5)]
    torch.testing.assert_close(objective(scores).loss, torch.stack(alone).mean())


def test_metric_is_the_violation_ratio_of_the_batch():
    scores = random_samples(7, 4)
    metric = get_objective("aot_unpaired")(scores).metrics["dominance/batch_violation_ratio"]
    assert float(metric) == pytest.approx(
        violation_ratio(scores.reward_chosen.detach(), scores.reward_rejected.detach())
    )
    still = SequenceScores.from_pairs(*torch.zeros(4, 3))
    assert math.isnan(float(get_objective("aot")(still).metrics["dominance/batch_violation_ratio"]))


@pytest.mark.parametrize("name", objective_names())
def test_half_precision_scores_give_half_precision_coefficients(name: str):
    scores = random_pairs(6)
    half = SequenceScores.from_pairs(
        *(
            x.detach().bfloat16().requires_grad_()
            for x in (
                scores.policy_chosen,
                scores.policy_rejected,
                scores.reference_chosen,
                scores.reference_rejected,
            )
        )
    )
    output = get_objective(name)(half)
    assert output.loss.dtype == torch.float32
    assert gradients(get_objective(name), half).dtype == torch.bfloat16
