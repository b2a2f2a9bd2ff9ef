"""KTO, the language-model term and mixtures: TRL's code, values by hand, and sums of parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distal.objectives import SequenceScores, get_objective
from tests.objectives.batches import random_pairs, random_samples
from tests.objectives.trl_oracle import trl_kto_loss
from tests.transport.oracles import normal


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shift", [-3.0, 3.0])
def test_loss_and_gradient_equal_trl(shift: float):
    mismatched = normal(11, seed=9) + shift
    scores = replace(random_samples(7, 4), mismatched_rewards=mismatched)
    options = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.7}
    wanted = scores.policy_chosen, scores.policy_rejected
    theirs = trl_kto_loss(scores, **options)
    expected = torch.autograd.grad(theirs, wanted)
    ours = get_objective("kto", kl_baseline="mismatched", **options)(scores)
    torch.testing.assert_close(ours.loss, theirs, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(ours.loss, wanted), expected, rtol=1e-12, atol=1e-14)
    assert float(ours.metrics["kl_baseline"]) == pytest.approx(max(0.0, mismatched.mean().item()))


def test_baseline_of_the_batch_by_hand():
    scores = SequenceScores(*torch.tensor([[3.0], [2.0], [0.0], [1.0]]))
    # Rewards 3 and 1, baseline 2: both are one nat from it, on the wrong side for the rejected one only if
    # above.
    output = get_objective("kto", beta=1.0)(scores)
    assert float(output.metrics["kl_baseline"]) == 2.0
    assert output.loss.item() == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item())
    none = get_objective("kto", beta=1.0, kl_baseline="none")(scores)
    sigmoid = torch.sigmoid(torch.tensor([-3.0, 1.0]))
    assert none.loss.item() == pytest.approx(sigmoid.mean().item())


def test_baseline_is_never_negative_and_has_no_gradient():
    low = torch.tensor([[-5.0], [-7.0], [0.0], [0.0]], dtype=torch.float64)
    scores = SequenceScores(*low)
    output = get_objective("kto", beta=1.0)(scores)
    assert float(output.metrics["kl_baseline"]) == 0.0
    shifted = replace(scores, policy_chosen=(low[0] + 20).requires_grad_())
    output = get_objective("kto", beta=1.0)(shifted)
    (slope,) = torch.autograd.grad(output.loss, shifted.policy_chosen)
    p = torch.sigmoid(torch.tensor(15.0 - 4.0, dtype=torch.float64))
    assert slope.item() == pytest.approx(-(p * (1 - p) / 2).item())


def test_weights_count_as_copies():
    scores = random_samples(3, 2)
    copies = torch.tensor([2, 0, 1]), torch.tensor([1, 3])
    weighted = replace(scores, chosen_weights=copies[0], rejected_weights=copies[1])
    full = SequenceScores(
        scores.policy_chosen.repeat_interleave(copies[0]),
        scores.policy_rejected.repeat_interleave(copies[1]),
        scores.reference_chosen.repeat_interleave(copies[0]),
        scores.reference_rejected.repeat_interleave(copies[1]),
    )
    for name in ("kto", "sft"):
        torch.testing.assert_close(get_objective(name)(weighted).loss, get_objective(name)(full).loss)


def test_mismatched_rewards_come_with_pairs_and_samples():
    scores, rewards = torch.zeros(2), torch.tensor([1.0, 4.0, 1.0])
    labels = torch.tensor([True, False])
    objective = get_objective("kto", beta=1.0, kl_baseline="mismatched")
    for built in (
        SequenceScores.from_pairs(scores, scores, scores, scores, mismatched_rewards=rewards),
        SequenceScores.from_samples(scores, scores, labels, mismatched_rewards=rewards),
    ):
        output = objective(built)
        assert float(output.metrics["kl_baseline"]) == 2.0
        # Rewards of 0 on both sides: the mean of sigma(2) and sigma(-2).
        assert output.loss.item() == pytest.approx(0.5)


def test_mismatched_baseline_needs_its_rewards():
    with pytest.raises(ValueError, match="kl_baseline='mismatched' needs SequenceScores.mismatched_rewards"):
        get_objective("kto", kl_baseline="mismatched")(random_samples(2, 2))


def test_language_model_term_per_token():
    scores = SequenceScores.from_samples(
        torch.tensor([-6.0, -1.0, -4.0]),
        torch.zeros(3),
        torch.tensor([True, False, True]),
        lengths=torch.tensor([3, 9, 2]),
    )
    assert get_objective("sft")(scores).loss.item() == 5.0
    assert get_objective("sft", per_token=True)(scores).loss.item() == 2.0
    weighted = replace(scores, chosen_weights=torch.tensor([0, 1]), rejected_weights=torch.tensor([1]))
    assert get_objective("sft", per_token=True)(weighted).loss.item() == 2.0
    with pytest.raises(ValueError, match="per_token=True needs SequenceScores.chosen_lengths, got none"):
        get_objective("sft", per_token=True)(replace(scores, chosen_lengths=None))


def test_mixture_is_the_weighted_sum_of_its_parts():
    scores = random_pairs(6)
    parts = [
        {"objective": "aot", "weight": 0.5, "cost": "squared_hinge", "margin": 2.0},
        {"objective": "aot", "weight": 2.0},
        {"objective": "sft", "weight": 0.1},
    ]
    output = get_objective("mix", parts=parts)(scores)
    losses = [
        get_objective("aot", cost="squared_hinge", margin=2.0)(scores).loss,
        get_objective("aot")(scores).loss,
        get_objective("sft")(scores).loss,
    ]
    torch.testing.assert_close(output.loss, 0.5 * losses[0] + 2.0 * losses[1] + 0.1 * losses[2])
    assert float(output.metrics["mix/1_aot/loss"]) == pytest.approx(losses[1].item())
    assert "mix/0_aot/dominance/batch_violation_ratio" in output.metrics


@pytest.mark.parametrize(
    ("names", "needs", "couples"),
    [
        (["dpo", "ipo"], "paired", False),
        (["dpo", "kto"], "paired", True),
        (["aot_unpaired", "sft"], "unpaired", True),
    ],
)
def test_mixture_needs_what_its_parts_need(names: list[str], needs: str, couples: bool):
    mix = get_objective("mix", parts=[{"objective": name} for name in names])
    assert (mix.needs, mix.couples_batch) == (needs, couples)
    if needs == "unpaired":
        assert torch.isfinite(mix(random_samples(3, 2)).loss)


def test_mixture_takes_weights_if_all_of_its_parts_do():
    scores = random_pairs(4)
    weighted = replace(
        scores, chosen_weights=torch.tensor([2, 1, 0, 1]), rejected_weights=torch.tensor([2, 1, 0, 1])
    )
    parts = [{"objective": "aot", "weight": 2.0}, {"objective": "sft", "weight": 0.1}]
    expected = 2 * get_objective("aot")(weighted).loss + 0.1 * get_objective("sft")(weighted).loss
    torch.testing.assert_close(get_objective("mix", parts=parts)(weighted).loss, expected)
    with pytest.raises(ValueError, match="sort='soft' mixes samples, so it cannot carry sample weights"):
        get_objective("mix", parts=[*parts, {"objective": "aot", "sort": "soft"}])(weighted)


def test_baseline_is_that_of_the_whole_batch_however_it_was_ordered():
    scores = random_samples(6, 5, seed=3)
    whole = get_objective("kto")(scores)
    assert float(whole.metrics["kl_baseline"]) == pytest.approx(
        max(0.0, torch.cat([scores.reward_chosen, scores.reward_rejected]).mean().item())
    )
    sides = scores.policy_chosen, scores.policy_rejected, scores.reference_chosen, scores.reference_rejected
    halves = [SequenceScores(*(side[part] for side in sides)) for part in (slice(0, 3), slice(3, 6))]
    # Micro-batches with baselines of their own would give another loss: 6 and 5 samples, in parts of 6 and 5.
    apart = (6 * get_objective("kto")(halves[0]).loss + 5 * get_objective("kto")(halves[1]).loss) / 11
    assert abs((apart - whole.loss).item()) > 1e-6
