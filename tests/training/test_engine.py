"""The whole-batch engine: what a step returns, refuses and costs. That it is exact stands in test_contract.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from distal.errors import ConfigError, NonFiniteError
from distal.objectives import SequenceScores
from distal.scoring import score_rows
from distal.training import MicroBatchLimit, WholeBatchEngine
from tests.training.oracle import LIMITS, OBJECTIVES, assert_same, engine_step, plain_autograd


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


def test_single_is_refused_where_it_would_not_be_exact(make_llama, make_rows):
    model, rows = make_llama(), make_rows(4)
    with pytest.raises(ConfigError, match=r"4 micro-batches.*recompute"):
        engine_step(model, rows, OBJECTIVES["aot"](), True, MicroBatchLimit(units=1), strategy="single")
    # A decoupled objective needs one pass only, however the batch is cut.
    engine_step(model, rows, OBJECTIVES["dpo"](), True, MicroBatchLimit(units=1), strategy="single")


def test_one_forward_pass_where_one_is_enough(make_llama, make_rows, monkeypatch):
    """DPO in micro-batches and AOT in one need one pass per row; for cut-up AOT see test_strategies.py."""
    counted: list[int] = []

    def counting(model, rows, layout):
        counted.append(len(rows))
        return score_rows(model, rows, layout)

    monkeypatch.setattr("distal.training.strategies.base.score_rows", counting)
    model, rows = make_llama(), make_rows(4)
    for name, limit, expected in [("dpo", 1, 8), ("aot", 4, 8)]:
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
