"""Scores of a whole data set under one model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from distal.errors import NonFiniteError
from distal.progress import track
from distal.scoring.layouts import PADDED, Layout
from distal.scoring.logprobs import score_rows
from distal.scoring.sharing import rank_and_world, share_of, sum_over_ranks
from distal.types import RowSource, TokenRow

__all__ = ["DEFAULT_TOKENS_PER_BATCH", "DatasetRows", "autocast", "score_dataset", "score_row_list"]

DEFAULT_TOKENS_PER_BATCH = 8192
"""Token places of one forward pass without gradient."""


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`, or nothing where `dtype` is None. One function for policy and reference."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


class DatasetRows(Sequence[TokenRow]):
    """The rows of a data set, unit by unit, each made when it is asked for.

    Token ids of a large data set take many times the memory as Python numbers that they take on disk.
    """

    def __init__(self, dataset: RowSource) -> None:
        self._dataset = dataset
        self._width = 2 if dataset.kind == "paired" else 1

    def __len__(self) -> int:
        return len(self._dataset) * self._width

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._dataset[index // self._width][index % self._width]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row, prompt and completion together."""
        known = getattr(self._dataset, "lengths", None)
        return known.tolist() if known is not None else [len(row.input_ids) for row in self]


def score_dataset(
    model: nn.Module,
    dataset: RowSource,
    *,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    layout: Layout = PADDED,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = "scoring",
    shared: bool = False,
) -> np.ndarray:
    """Scores of every row of a data set, without gradient and without dropout.

    Args:
        model: a causal language model; its training mode is put back afterwards.
        dataset: tokenised preferences of any kind.
        tokens_per_batch: token places per forward pass; memory and speed only.
        layout: how rows are laid out in it; the same for policy and reference.
        autocast_dtype: mixed precision, None for the model's own type.
        progress: what the progress bar says; None for silence.
        shared: share the forward passes out over the ranks; then all of them must call this, and all get all scores.

    Returns:
        (n_rows,) summed completion log-probabilities, nats, unit by unit; float32, or float64 for a float64 model.
        The rows of a forward pass do not depend on the number of ranks.

    Raises:
        NonFiniteError: a score is NaN or infinite; the first rows concerned are named.
    """
    return score_row_list(
        model,
        DatasetRows(dataset),
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        autocast_dtype=autocast_dtype,
        progress=progress,
        shared=shared,
    )


def score_row_list(
    model: nn.Module,
    rows: Sequence[TokenRow],
    *,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    layout: Layout = PADDED,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = None,
    shared: bool = False,
) -> np.ndarray:
    """`score_dataset` for rows at hand: (len(rows),) scores in the order of the rows."""
    scores = np.zeros(len(rows), dtype=_score_type(model))
    lengths = rows.lengths if isinstance(rows, DatasetRows) else [len(row.input_ids) for row in rows]
    groups = layout.cut_by_tokens(rows, 1, tokens_per_batch)
    groups, counted = share_of(groups) if shared and groups else (groups, len(groups))
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), autocast(device, autocast_dtype):
        shown = progress if not shared or rank_and_world()[0] == 0 else None
        # Weighing by tokens makes the estimate honest although the longest groups come first.
        weights = [sum(lengths[i] for i in group) for group in groups]
        for number, group in enumerate(track(groups, shown, weights=weights)):
            found = score_rows(model, [rows[i] for i in group], layout)
            if number < counted:
                scores[group] = found.cpu().numpy()
    if shared:
        scores = sum_over_ranks(scores)  # each row was scored by one rank; the others have zeros
    refuse_non_finite(scores, rows)
    return scores


def _score_type(model: nn.Module) -> type[np.floating]:
    double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    return np.float64 if double else np.float32


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
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode while open."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
