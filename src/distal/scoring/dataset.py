"""Scores of a whole data set under one model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import nn

from distal.errors import NonFiniteError
from distal.progress import track
from distal.scoring.batching import cut_by_tokens
from distal.scoring.logprobs import score_rows
from distal.types import RowSource, TokenRow

__all__ = ["DEFAULT_TOKENS_PER_BATCH", "autocast", "score_dataset", "score_row_list"]

DEFAULT_TOKENS_PER_BATCH = 8192
"""Padded tokens of one forward pass without gradient."""


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`, or nothing where `dtype` is None. One function for policy and reference."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def score_dataset(
    model: nn.Module,
    dataset: RowSource,
    *,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = "scoring",
) -> np.ndarray:
    """Scores of every row of a data set, without gradient and without dropout.

    Args:
        model: a causal language model; its training mode is put back afterwards.
        dataset: tokenised preferences of any kind.
        tokens_per_batch: padded tokens per forward pass; memory and speed only.
        autocast_dtype: mixed precision, None for the model's own type.
        progress: what the progress bar says; None for silence.

    Returns:
        (n_rows,) summed completion log-probabilities, nats, unit by unit; float32, or float64 for a float64 model.

    Raises:
        NonFiniteError: a score is NaN or infinite; the first rows concerned are named.
    """
    rows = [row for index in range(len(dataset)) for row in dataset[index]]
    return score_row_list(
        model, rows, tokens_per_batch=tokens_per_batch, autocast_dtype=autocast_dtype, progress=progress
    )


def score_row_list(
    model: nn.Module,
    rows: Sequence[TokenRow],
    *,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> np.ndarray:
    """`score_dataset` for rows at hand: (len(rows),) scores in the order of the rows."""
    double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    scores = np.empty(len(rows), dtype=np.float64 if double else np.float32)
    lengths = [len(row.input_ids) for row in rows]
    groups = cut_by_tokens(lengths, tokens_per_batch)
    device = next(model.parameters()).device
    with _evaluating(model), torch.no_grad(), autocast(device, autocast_dtype):
        # Weighing by tokens makes the estimate honest although the longest groups come first.
        for group in track(groups, progress, weights=[sum(lengths[i] for i in group) for group in groups]):
            scores[group] = score_rows(model, [rows[i] for i in group]).cpu().numpy()
    refuse_non_finite(scores, rows)
    return scores


def refuse_non_finite(scores: np.ndarray, rows: Sequence[TokenRow]) -> None:
    """Raise NonFiniteError naming the rows whose score is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        named = ", ".join(f"row {rows[i].source_row} (score {scores[i]})" for i in bad[:5])
        raise NonFiniteError(
            f"{bad.size} of {len(rows)} scores are not finite, first {named}. The weights may hold NaN or infinity, "
            "or the numbers overflow in the chosen precision: check the model, or use float32 or bfloat16."
        )


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
