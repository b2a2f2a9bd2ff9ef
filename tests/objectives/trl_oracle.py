"""TRL's own loss code, run on scores of our choice.

`DPOTrainer._compute_loss` is called on a stand-in for the trainer and a stand-in for the model whose
completions are one token long, so that a token's log-probability is the sequence's score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from distal.objectives import SequenceScores


def _accelerator() -> SimpleNamespace:
    return SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def _model(scores: Tensor) -> Callable[..., SimpleNamespace]:
    column = scores[:, None]
    outputs = SimpleNamespace(
        log_probs=column,
        entropy=column,
        mean_logits=column,
        is_top1=torch.ones_like(column, dtype=torch.bool),
    )
    return lambda **_: outputs


def trl_kto_loss(
    scores: SequenceScores, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> Tensor:
    """Loss of TRL's `KTOTrainer`, with the scores' `mismatched_rewards` in place of its second forward pass."""
    trainer = pytest.importorskip("trl.trainer.kto_trainer")
    mismatched = scores.mismatched_rewards
    assert mismatched is not None
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=_accelerator(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
        _compute_kl_logps=lambda model, batch: mismatched,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    policy = torch.cat([scores.policy_chosen, scores.policy_rejected])
    count = policy.numel()
    inputs = {
        "input_ids": torch.zeros(count, 2, dtype=torch.long),
        "attention_mask": torch.ones(count, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(count, 2),
        "label": torch.arange(count) < scores.policy_chosen.numel(),
        "ref_logps": torch.cat([scores.reference_chosen, scores.reference_rejected]),
        "ref_KL_logps": torch.zeros_like(mismatched),
    }
    return trainer.KTOTrainer._compute_loss(stand_in, _model(policy), inputs, return_outputs=False)


def trl_dpo_loss(
    loss_type: str, scores: SequenceScores, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """Loss of TRL's `DPOTrainer` on pairs."""
    trainer = pytest.importorskip("trl.trainer.dpo_trainer")
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=_accelerator(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
    )
    both = torch.cat([scores.policy_chosen, scores.policy_rejected])
    inputs = {
        "input_ids": torch.zeros(both.numel(), 2, dtype=torch.long),
        "attention_mask": torch.ones(both.numel(), 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(both.numel(), 2),
        "ref_chosen_logps": scores.reference_chosen,
        "ref_rejected_logps": scores.reference_rejected,
    }
    return trainer.DPOTrainer._compute_loss(stand_in, _model(both), inputs, return_outputs=False)
