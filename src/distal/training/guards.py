"""Checks that stop a run before it does harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distal.errors import NonFiniteError, ReferenceMismatchError
from distal.scoring import PADDED, Layout, autocast, compute_dtype, score_noise, score_rows
from distal.types import RowSource, TokenRow

__all__ = [
    "GradientNormCheck",
    "blame",
    "check_initial_policy",
    "multiplies_in_tf32",
    "refuse_non_finite_gradient",
    "rows_with_bad_gradient",
]

# Noise is what is typical; this leaves room for bad luck and for kernels that differ between training and scoring.
_NOISE_ALLOWED = 16
# TF32 keeps 11 bits of what float32 products multiply. Rounded so, a small model's scores differed by 10 times as much.
_NOISE_OF_TF32 = 10
_NAMED = 20
"""Rows that a message names."""


def check_initial_policy(
    model: nn.Module,
    dataset: RowSource,
    autocast_dtype: torch.dtype | None,
    layout: Layout = PADDED,
    *,
    n_units: int = 4,
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
        policy = score_rows(model, rows, layout).double().cpu().numpy()
    model.train(was_training)
    dtype = compute_dtype(model, autocast_dtype)
    tolerance = _NOISE_ALLOWED * score_noise(dtype, [row.scored_length for row in rows])
    if multiplies_in_tf32(next(model.parameters()).device, dtype):
        tolerance *= _NOISE_OF_TF32
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


def multiplies_in_tf32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of this type are computed in TF32, as `tf32: true` and `torch_compile` ask for.

    Examples:
        >>> multiplies_in_tf32(torch.device("cpu"), torch.float32)
        False
    """
    return (
        device.type == "cuda"
        and dtype == torch.float32
        and torch.backends.cuda.matmul.fp32_precision == "tf32"
    )


def refuse_non_finite_gradient(
    norm: Any, *, loss_scale: float | None = None, culprits: Callable[[], str] = lambda: ""
) -> None:
    """Raise NonFiniteError for a NaN or infinite gradient norm.

    Args:
        norm: of the gradient before clipping; a float, a 0-d tensor, or None when unknown.
        loss_scale: of float16 training: overflows are part of it, and its scaler skips those steps itself; but not
            with a scale below 1, where the gradient overflows as it is.
        culprits: says which rows are to blame; called only if there is something to blame.
    """
    if norm is None or math.isfinite(float(norm)) or (loss_scale is not None and loss_scale >= 1):
        return
    raise NonFiniteError(
        f"the gradient norm is {float(norm)} although scores and loss are finite: the backward pass overflowed"
        f"{culprits()}. The weights were not updated; resume from the last checkpoint with a lower learning rate, "
        "leave out these rows, or train in float32 or bfloat16."
    )


def rows_with_bad_gradient(
    model: nn.Module,
    rows: Sequence[TokenRow],
    weights: Tensor,
    groups: Iterable[Sequence[int]],
    autocast_dtype: torch.dtype | None = None,
    layout: Layout = PADDED,
) -> list[TokenRow]:
    """The rows whose own part of the gradient, `c_i ds_i/dtheta`, is NaN or infinite.

    First the micro-batches are tried, then the rows of those that are bad: no more than one step and a bit. Nothing
    is left in `.grad`, and no other rank is asked.

    Args:
        model: the policy, not wrapped for data parallelism.
        rows: of the optimizer batch, as far as this rank holds them.
        weights: (len(rows),) coefficients as they were applied.
        groups: row indices of each micro-batch.
        autocast_dtype: mixed precision, as in training.
        layout: of the micro-batches, as in training.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device

    def bad(indices: Sequence[int]) -> bool:
        with autocast(device, autocast_dtype):
            scores = score_rows(model, [rows[i] for i in indices], layout)
        loss = (scores * weights[list(indices)].to(scores)).sum()
        gradients: Sequence[Tensor] = torch.autograd.grad(
            loss, parameters, allow_unused=True, materialize_grads=True
        )
        return not all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    return [rows[i] for group in groups if group and bad(group) for i in group if bad([i])]


def blame(bad: Sequence[TokenRow] | None, rows: Sequence[TokenRow]) -> str:
    """The part of a message that names rows.

    Args:
        bad: the rows to blame; empty if each row alone is sound, None if that could not be found out.
        rows: all rows of this rank.

    Examples:
        >>> rows = [TokenRow([1, 2], 1, True, i, source_row=i) for i in range(9)]
        >>> blame(rows[3:5], rows), blame([], rows[:2])
        (' in row 3, 4 (2 of 9 rows)', ', although no row alone makes it so (rows 0, 1)')
    """
    if bad:
        return f" in row {_numbers(bad)} ({len(bad)} of {len(rows)} rows)"
    start = "" if bad is None else ", although no row alone makes it so"
    return f"{start} (rows {_numbers(rows)})"


def _numbers(rows: Sequence[TokenRow]) -> str:
    numbers = list(dict.fromkeys(row.source_row for row in rows))
    shown = ", ".join(str(number) for number in numbers[:_NAMED])
    return shown + (f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else "")


class GradientNormCheck(TrainerCallback):
    """Hands the gradient's norm to a check before each optimizer step.

    For versions of transformers that have no hook where the norm is known (before 5.3).

    Args:
        check: called with the norm, None where there are no gradients to see.
    """

    def __init__(self, check: Callable[[Any], None]) -> None:
        self._check = check

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compute the norm and check it."""
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients) if gradients else None
        self._check(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
