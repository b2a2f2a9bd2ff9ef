"""What is random in training mode: found, switched off where that is all it does, and replayed where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MiniMaxConfig, MixtralConfig, PhimoeConfig

from distal.scoring import score_rows
from distal.training.models import has_dropout, policy_and_reference
from tests.scoring.architectures import SMALL, model_of
from tests.training.oracle import LIMITS, OBJECTIVES, assert_same, engine_step

EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_dropout": 0.0}
JITTER = {
    "mixtral": MixtralConfig(**SMALL, **EXPERTS, router_jitter_noise=0.3),
    "minimax": MiniMaxConfig(
        **SMALL, **EXPERTS, head_dim=8, router_jitter_noise=0.3, layer_types=["full_attention"] * 2
    ),
    "phimoe": PhimoeConfig(**SMALL, **EXPERTS, input_jitter_noise=0.3, router_jitter_noise=0.0),
}
PHIMOE = PhimoeConfig(**SMALL, **EXPERTS, router_jitter_noise=0.05)


def two_passes(model, rows):
    """Scores of the same rows, twice in training mode."""
    model.train()
    with torch.no_grad():
        return score_rows(model, rows), score_rows(model, rows)


def replayed(policy, rows, strategy):
    """Loss and gradients of one step from a fixed state of the random numbers."""
    torch.manual_seed(3)
    return engine_step(
        policy, rows, OBJECTIVES["aot"](), True, LIMITS["1 unit"], strategy=strategy, replay_rng=True
    )


@pytest.mark.parametrize("name", JITTER)
def test_jitter_of_routers_is_noise_that_is_switched_off(make_rows, name):
    rows = make_rows(3)
    kept, _ = policy_and_reference(model_of(JITTER[name]), None, without_dropout=False)
    assert has_dropout(kept)
    assert not torch.equal(*two_passes(kept, rows))
    quiet, _ = policy_and_reference(model_of(JITTER[name]), None)
    assert not has_dropout(quiet)
    assert torch.equal(*two_passes(quiet, rows))


def test_the_threshold_of_phimoe_stays_and_its_draws_are_replayed(make_rows, caplog):
    """Its router masks experts by the threshold in evaluation too, and draws among the others while training."""
    rows, model = make_rows(4), model_of(PHIMOE)
    with torch.no_grad():
        before = score_rows(model, rows)
        policy, _ = policy_and_reference(model, None)
        assert torch.equal(score_rows(policy.eval(), rows), before)
    assert "draws experts at random" in caplog.text
    assert has_dropout(policy)
    assert not torch.equal(*two_passes(policy, rows))
    one, other = (replayed(policy, rows, strategy) for strategy in ("retain", "recompute"))
    assert_same(one, other, 1e-5)
