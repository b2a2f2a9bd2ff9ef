"""The first law: the optimizer batch decides loss and gradient; micro-batches and strategies are only memory.

Oracle: all rows in one forward pass, plain autograd through the objective, no engine.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distal.errors import ConfigError, NonFiniteError
from distal.objectives import SequenceScores, get_objective
from distal.scoring import score_rows
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.types import DataKind

OBJECTIVES = {
    "aot": partial(get_objective, "aot", beta=0.1),
    "aot squared hinge": partial(get_objective, "aot", cost="squared_hinge", margin=3.0),
    "aot_unpaired": partial(get_objective, "aot_unpaired", beta=0.1),
    "aot soft": partial(get_objective, "aot", beta=0.1, sort="soft", soft_sort_strength=0.5),
    "aot lower tail": partial(get_objective, "aot", beta=0.1, quantile_weighting=[0.0, 0.3]),
    "aot in groups": partial(get_objective, "aot", beta=0.1, sort_group=3),
    "aot2": partial(get_objective, "aot2", beta=0.1),
    "dpo": partial(get_objective, "dpo", beta=0.1),
    "ipo": partial(get_objective, "ipo"),
    "kto": partial(get_objective, "kto"),
    "mix": partial(
        get_objective,
        "mix",
        parts=[{"objective": "dpo"}, {"objective": "sft", "weight": 0.1, "per_token": True}],
    ),
}
CASES = [(name, True) for name in OBJECTIVES] + [("aot_unpaired", False), ("kto", False)]
LIMITS = {
    "1 unit": MicroBatchLimit(units=1),
    "3 units": MicroBatchLimit(units=3),
    "60 tokens": MicroBatchLimit(tokens=60),
    "all": MicroBatchLimit(units=100),
}
KINDS: dict[bool, DataKind] = {True: "paired", False: "unpaired"}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_autograd(model, rows, objective, paired):
    """Loss and gradients with nothing cut up."""
    model.zero_grad()
    policy = score_rows(model, rows)
    reference = torch.tensor([row.reference_score for row in rows], dtype=policy.dtype)
    if paired:
        lengths = torch.tensor([row.completion_length for row in rows[0::2]])
        scores = SequenceScores.from_pairs(
            policy[0::2], policy[1::2], reference[0::2], reference[1::2], chosen_lengths=lengths
        )
    else:
        scores = SequenceScores.from_samples(policy, reference, torch.tensor([row.desirable for row in rows]))
    loss = objective(scores).loss
    loss.backward()
    return loss.detach(), gradients(model)


def engine_step(model, rows, objective, paired, limit, **options):
    model.zero_grad()
    output = WholeBatchEngine(objective, KINDS[paired], limit, **options).step(model, rows)
    return output.loss, gradients(model)


def assert_same(got, expected, tolerance):
    (loss, grads), (expected_loss, expected_grads) = got, expected
    torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=tolerance)
    assert grads.keys() == expected_grads.keys()
    scale = max(g.abs().max().item() for g in expected_grads.values())
    for name, gradient in grads.items():
        assert (gradient - expected_grads[name]).abs().max().item() <= tolerance * scale, name


@pytest.mark.parametrize(("name", "paired"), CASES)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradient_does_not_depend_on_the_micro_batch(
    make_llama, make_rows, name, paired, limit, dtype, tolerance
):
    model, rows, objective = make_llama(dtype=dtype), make_rows(8, paired=paired), OBJECTIVES[name]()
    expected = plain_autograd(model, rows, objective, paired)
    assert_same(engine_step(model, rows, objective, paired, LIMITS[limit]), expected, tolerance)


@pytest.mark.parametrize(("name", "paired"), CASES)
def test_every_strategy_gives_the_same_gradient(make_llama, make_rows, name, paired):
    model, rows, objective = make_llama(dtype=torch.float64), make_rows(8, paired=paired), OBJECTIVES[name]()
    expected = plain_autograd(model, rows, objective, paired)
    for limit in LIMITS.values():
        step = engine_step(model, rows, objective, paired, limit, strategy="recompute")
        assert_same(step, expected, 1e-10)
    assert_same(
        engine_step(model, rows, objective, paired, LIMITS["all"], strategy="single"), expected, 1e-10
    )


# Sort groups are drawn by position in the batch: there another order is another partition.
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "aot in groups"])
def test_order_of_the_pairs_changes_nothing(make_llama, make_rows, name):
    model, rows, objective = make_llama(dtype=torch.float64), make_rows(8), OBJECTIVES[name]()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [rows[2 * i + side] for i in order for side in range(2)]
    limit = MicroBatchLimit(units=2)
    assert_same(
        engine_step(model, shuffled, objective, True, limit),
        engine_step(model, rows, objective, True, limit),
        1e-10,
    )


def test_aot_of_one_micro_batch_at_a_time_would_be_another_objective(make_llama, make_rows):
    """The control: what sorting within micro-batches of 1 computes (DPO) is not what the engine computes."""
    model, rows = make_llama(dtype=torch.float64), make_rows(8)
    aot, dpo = OBJECTIVES["aot"](), OBJECTIVES["dpo"]()
    whole = engine_step(model, rows, aot, True, MicroBatchLimit(units=1))
    parts = [plain_autograd(model, rows[2 * i : 2 * i + 2], aot, True) for i in range(8)]
    mean = {name: sum(g[name] for _, g in parts) / 8 for name in parts[0][1]}
    assert_same((sum(loss for loss, _ in parts) / 8, mean), plain_autograd(model, rows, dpo, True), 1e-10)
    assert whole[0] < sum(loss for loss, _ in parts) / 8 - 1e-3
    assert max((whole[1][name] - mean[name]).abs().max() for name in mean) > 1e-3


@pytest.mark.parametrize("limit", ["1 unit", "3 units"])
def test_lora_gradients(make_llama, make_rows, limit):
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = get_peft_model(make_llama(dtype=torch.float64), config, autocast_adapter_dtype=False)
    rows, objective = make_rows(6), OBJECTIVES["aot"]()
    expected = plain_autograd(model, rows, objective, True)
    assert all("lora_" in name for name in expected[1])
    assert_same(engine_step(model, rows, objective, True, LIMITS[limit]), expected, 1e-10)


def test_tied_embeddings_and_gradient_checkpointing(make_llama, make_rows):
    model = make_llama(dtype=torch.float64, tie_word_embeddings=True).train()
    rows, objective = make_rows(6), OBJECTIVES["aot"]()
    expected = plain_autograd(model, rows, objective, True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(engine_step(model, rows, objective, True, LIMITS["1 unit"]), expected, 1e-10)


def test_dropout_is_replayed_in_the_second_pass(make_llama, make_rows):
    """With the random numbers of the first pass the two-pass gradient is the gradient of one dropout draw."""
    model = make_llama(dtype=torch.float64, attention_dropout=0.5).train()
    rows, objective = make_rows(4), OBJECTIVES["aot"]()

    torch.manual_seed(3)
    model.zero_grad()
    scores = torch.cat([score_rows(model, rows[i : i + 2]) for i in order_of_units(rows)])
    at = [2 * u + side for u in units_longest_first(rows) for side in range(2)]
    policy = torch.empty_like(scores).index_put((torch.tensor(at),), scores)
    reference = torch.tensor([row.reference_score for row in rows], dtype=policy.dtype)
    loss = objective(
        SequenceScores.from_pairs(policy[0::2], policy[1::2], reference[0::2], reference[1::2])
    ).loss
    loss.backward()
    expected = loss.detach(), gradients(model)

    torch.manual_seed(3)
    replayed = engine_step(model, rows, objective, True, MicroBatchLimit(units=1), replay_rng=True)
    assert_same(replayed, expected, 1e-10)
    torch.manual_seed(3)
    _, fresh = engine_step(model, rows, objective, True, MicroBatchLimit(units=1), replay_rng=False)
    assert max((fresh[n] - expected[1][n]).abs().max() for n in fresh) > 1e-6, "without replay it must differ"


def units_longest_first(rows):
    longest = [max(len(rows[2 * u].input_ids), len(rows[2 * u + 1].input_ids)) for u in range(len(rows) // 2)]
    return sorted(range(len(longest)), key=lambda u: -longest[u])


def order_of_units(rows):
    return [2 * u for u in units_longest_first(rows)]


def test_single_is_refused_where_it_would_not_be_exact(make_llama, make_rows):
    model, rows = make_llama(), make_rows(4)
    with pytest.raises(ConfigError, match=r"4 micro-batches.*recompute"):
        engine_step(model, rows, OBJECTIVES["aot"](), True, MicroBatchLimit(units=1), strategy="single")
    # A decoupled objective needs one pass only, however the batch is cut.
    engine_step(model, rows, OBJECTIVES["dpo"](), True, MicroBatchLimit(units=1), strategy="single")


def test_one_forward_pass_where_one_is_enough(make_llama, make_rows, monkeypatch):
    """DPO in micro-batches and AOT in one need one pass per row; cut-up AOT needs two."""
    counted: list[int] = []

    def counting(model, rows):
        counted.append(len(rows))
        return score_rows(model, rows)

    monkeypatch.setattr("distal.training.strategies.base.score_rows", counting)
    model, rows = make_llama(), make_rows(4)
    for name, limit, expected in [("dpo", 1, 8), ("aot", 4, 8), ("aot", 2, 16)]:
        counted.clear()
        engine_step(model, rows, OBJECTIVES[name](), True, MicroBatchLimit(units=limit))
        assert sum(counted) == expected, (name, limit)


@pytest.mark.parametrize("limit", ["1 unit", "all"])
@pytest.mark.parametrize("name", ["aot", "dpo"])
def test_non_finite_scores_name_the_rows(make_llama, make_rows, name, limit):
    model, rows = make_llama(), make_rows(4)
    rows = [dataclasses.replace(row, source_row=row.source_row + 100) for row in rows]
    rows[5] = dataclasses.replace(rows[5], reference_score=float("nan"))
    with pytest.raises(NonFiniteError, match=r"1 of 8 reference scores .* row 102 \(nan\)"):
        engine_step(model, rows, OBJECTIVES[name](), True, LIMITS[limit])


def test_metrics_by_hand(make_llama, make_rows):
    """Rewards of two pairs set through the reference: one ranked right, one wrong."""
    model, rows = make_llama(dtype=torch.float64), make_rows(2)
    scores = score_rows(model, rows).tolist()
    rewards = [3.0, 1.0, -1.0, 5.0]  # chosen, rejected, chosen, rejected
    rows = [
        dataclasses.replace(row, reference_score=score - reward)
        for row, score, reward in zip(rows, scores, rewards, strict=True)
    ]
    engine = WholeBatchEngine(OBJECTIVES["aot_unpaired"](), "paired", MicroBatchLimit(units=1))
    metrics = engine.step(model, rows).metrics
    expected = {
        "rewards/chosen": 1.0,
        "rewards/rejected": 3.0,
        "rewards/margins": -2.0,
        "rewards/accuracies": 0.5,
        "logps/chosen": (scores[0] + scores[2]) / 2,
        "logps/rejected": (scores[1] + scores[3]) / 2,
        # chosen {-1, 3} against rejected {1, 5}: one of four comparisons won
        "dominance/auc": 0.25,
        # quantiles (-1, 3) below (1, 5) everywhere
        "dominance/violation_ratio": 1.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("limit", ["1 unit", "3 units", "all"])
@pytest.mark.parametrize("name", ["aot", "dpo", "mix"])
def test_a_step_returns_its_scores_and_coefficients(make_llama, make_rows, name, limit):
    """In the order of the rows, whatever the strategy: the derivative of the whole batch's loss by its scores."""
    model, rows, objective = make_llama(dtype=torch.float64), make_rows(8), OBJECTIVES[name]()
    policy = score_rows(model, rows).detach().requires_grad_()
    reference = torch.tensor([row.reference_score for row in rows], dtype=policy.dtype)
    lengths = torch.tensor([row.completion_length for row in rows[0::2]])
    scores = SequenceScores.from_pairs(
        policy[0::2], policy[1::2], reference[0::2], reference[1::2], chosen_lengths=lengths
    )
    objective(scores).loss.backward()
    output = WholeBatchEngine(objective, "paired", LIMITS[limit]).step(model, rows)
    torch.testing.assert_close(output.batch.policy, policy.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(output.coefficients, policy.grad, rtol=0, atol=1e-12)
    assert output.batch.source_row.tolist() == [row.source_row for row in rows]


def test_at_the_start_the_violation_ratio_is_left_out_and_the_loss_is_log_2(make_llama, make_rows):
    model, rows = make_llama(dtype=torch.float64), make_rows(3)
    start = score_rows(model, rows).tolist()
    rows = [dataclasses.replace(row, reference_score=s) for row, s in zip(rows, start, strict=True)]
    for name in ("aot", "aot_unpaired", "dpo"):
        output = WholeBatchEngine(OBJECTIVES[name](), "paired", MicroBatchLimit(units=8)).step(model, rows)
        assert output.loss.item() == pytest.approx(0.6931471805599453, abs=1e-12)
        assert "dominance/violation_ratio" not in output.metrics
        assert output.metrics["dominance/auc"] == 0.5
