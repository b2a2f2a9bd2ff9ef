"""Evaluation of a whole data set: one loss, one set of metrics, however it was batched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from distal.objectives import Objective
from distal.scoring import PADDED, DatasetRows, Layout, compute_dtype, score_row_list
from distal.training.batch import ScoredBatch, local_batch, without_rounding
from distal.training.metrics import batch_metrics, undefined_metrics
from distal.types import RowSource

__all__ = ["Evaluation", "evaluate_whole_set"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A data set as it was last evaluated.

    Attributes:
        metrics: `loss`, and the names of `batch_metrics`.
        undefined: metrics that have no value, such as the violation ratio before the first step.
        batch: the scores of all rows; rewards are exactly zero where all are zero to rounding.
        dataset: the data set.
    """

    metrics: dict[str, float]
    undefined: tuple[str, ...]
    batch: ScoredBatch
    dataset: RowSource


def evaluate_whole_set(
    model: nn.Module,
    dataset: RowSource,
    objective: Objective,
    *,
    tokens_per_batch: int,
    layout: Layout = PADDED,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = None,
) -> Evaluation:
    """Loss and metrics of a data set with reference scores; ranks share the forward passes.

    Args:
        model: the policy.
        dataset: with reference scores.
        objective: applied once to all scores, as to one optimizer batch.
        tokens_per_batch: token places per forward pass; memory and speed only.
        layout: how rows are laid out in it.
        autocast_dtype: mixed precision, as in training.
        progress: what the progress bar says; None for silence.

    Returns:
        Metrics, with the scores that they come from.
    """
    rows = DatasetRows(dataset)
    scores = score_row_list(
        model,
        rows,
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        autocast_dtype=autocast_dtype,
        progress=progress,
        shared=True,
    )
    batch = local_batch(dataset.kind, rows, torch.from_numpy(scores))
    loss = objective(batch.sequence_scores()).loss.item()
    batch = without_rounding(batch, compute_dtype(model, autocast_dtype))
    metrics = batch_metrics(batch, objective)
    return Evaluation({"loss": loss, **metrics}, undefined_metrics(metrics), batch, dataset)
