"""Checks that stop a run before it does harm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from distal.errors import NonFiniteError, ReferenceMismatchError
from distal.scoring import autocast, compute_dtype, score_noise, score_rows
from distal.types import RowSource

__all__ = ["check_initial_policy", "refuse_non_finite_gradient"]

# Noise is what is typical; this leaves room for bad luck and for kernels that differ between training and scoring.
_NOISE_ALLOWED = 16


def check_initial_policy(
    model: nn.Module, dataset: RowSource, autocast_dtype: torch.dtype | None, *, n_units: int = 4
) -> None:
    """Hold the policy, ready to train, to the reference scores of the first units of its data.

    Before the first step both are the same function, so every reward must be zero to rounding.

    Raises:
        ReferenceMismatchError: they differ; the message names the likely causes.
    """
    rows = [row for i in range(min(n_units, len(dataset))) for row in dataset[i]]
    reference = np.array([row.reference_score for row in rows])
    was_training = model.training
    model.train()
    with torch.no_grad(), autocast(next(model.parameters()).device, autocast_dtype):
        policy = score_rows(model, rows).double().cpu().numpy()
    model.train(was_training)
    noise = score_noise(compute_dtype(model, autocast_dtype), [row.completion_length for row in rows])
    tolerance = _NOISE_ALLOWED * noise
    rewards = policy - reference
    worst = int(np.argmax(np.abs(rewards) / tolerance))
    if not np.all(np.abs(rewards) <= tolerance):
        raise ReferenceMismatchError(
            f"before the first step the reward of row {rows[worst].source_row} is {rewards[worst]:.4g} nats "
            f"(policy {policy[worst]:.4f}, reference {reference[worst]:.4f}); it must be 0 to within "
            f"{tolerance[worst]:.2g}, because the reference is the policy's own start. Likely causes: an adapter that "
            "does not start at zero (init_lora_weights other than True), a layer that acts differently in training "
            "mode, or weights changed after the reference was scored. If the difference is meant, pass the "
            "reference as ref_model, or set check_initial_policy: false."
        )


def refuse_non_finite_gradient(norm: Any, *, scaled: bool) -> None:
    """Raise NonFiniteError for a NaN or infinite gradient norm.

    Args:
        norm: of the gradient before clipping; a float, a 0-d tensor, or None when unknown.
        scaled: float16 loss scaling is on: overflows are part of it, and its scaler skips those steps itself.
    """
    if norm is None or scaled or math.isfinite(float(norm)):
        return
    raise NonFiniteError(
        f"the gradient norm is {float(norm)} although scores and loss are finite: the backward pass overflowed. "
        "The weights were not updated; resume from the last checkpoint with a lower learning rate, or train in "
        "float32 or bfloat16."
    )
