"""From a model, its reference and held-out preferences to a dominance certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distal.errors import DataError
from distal.evaluation.certificate import CertificateOptions, check_options, dominance_certificate
from distal.evaluation.records import DominanceCertificate
from distal.scoring import Layout, Reference, choose_layout, compute_dtype, score_dataset, score_noise
from distal.types import RowSource, TokenRow

__all__ = ["certificate_from_scores", "evaluate_dominance"]


def evaluate_dominance(
    model: nn.Module,
    reference: nn.Module | Reference | None,
    dataset: RowSource,
    *,
    tokens_per_batch: int = 8192,
    layout: Layout | str = "auto",
    autocast_dtype: torch.dtype | None = None,
    progress: bool = True,
    shared: bool = False,
    **options: Unpack[CertificateOptions],
) -> DominanceCertificate:
    """Score held-out preferences under a model and its reference, and state whether dominance was reached.

    Both are scored with the same settings, since a difference in precision would show as a reward.

    Args:
        model: the aligned causal language model.
        reference: the model that rewards are measured against; None where the data holds reference scores.
        dataset: held-out tokenised preferences, paired or unpaired.
        tokens_per_batch: tokens per forward pass, with padding; memory and speed only.
        layout: how rows are laid out in it, or a name for `choose_layout`; memory and speed only.
        autocast_dtype: mixed precision for both models, None for their own type.
        progress: whether to show progress bars.
        shared: share the forward passes out over the ranks; then all of them must call this.
        **options: `confidence`, `resamples`, `seed`, `threshold` of `dominance_certificate`.

    Returns:
        The certificate; for paired data with the margin view.

    Raises:
        DataError: an empty data set, only one label, or no reference scores although `reference` is None.
        NonFiniteError: a score is NaN or infinite.
        ConfigError: an option out of range, before anything is scored.
    """
    check_options(**options)
    if not len(dataset):
        raise DataError(
            "the held-out data set is empty, so there is nothing to evaluate; give it at least 2 rows"
        )

    def scores_of(scored: nn.Module, name: str, layout: Layout) -> NDArray[Any]:
        label = f"scoring the {name}" if progress else None
        return score_dataset(
            scored,
            dataset,
            tokens_per_batch=tokens_per_batch,
            layout=layout,
            autocast_dtype=autocast_dtype,
            progress=label,
            shared=shared,
        )

    with _active(reference) as active:
        if isinstance(layout, str):
            models = [model] if active is None or active is model else [model, active]
            layout = choose_layout(layout, models, autocast_dtype=autocast_dtype)
        known = active is None
        reference_scores = (
            _known_reference_scores(dataset) if known else scores_of(active, "reference", layout)
        )
    desirable, scored_lengths = _labels_and_lengths(dataset)
    return certificate_from_scores(
        scores_of(model, "policy", layout),
        reference_scores,
        desirable,
        paired=dataset.kind == "paired",
        noise=score_noise(compute_dtype(model, autocast_dtype), scored_lengths),
        **options,
    )


def certificate_from_scores(
    policy: NDArray[Any],
    reference: NDArray[Any],
    desirable: NDArray[np.bool_],
    *,
    paired: bool,
    noise: NDArray[np.float64] | None = None,
    **options: Unpack[CertificateOptions],
) -> DominanceCertificate:
    """A dominance certificate from scores that are already known.

    Scores that agree everywhere to rounding count as equal, so that a model compared with itself gives the
    undefined violation ratio that it should, even where the two were scored in different batches.

    Args:
        policy: scores of every row under the policy, nats, shape (rows,).
        reference: scores of the same rows under the reference, nats, shape (rows,).
        desirable: whether each row is a preferred response, shape (rows,).
        paired: whether the rows alternate chosen, rejected, chosen, rejected, ...
        noise: rounding of each score, nats, shape (rows,), as `distal.scoring.score_noise` knows it; None for
            scores that are exact.
        **options: `confidence`, `resamples`, `seed`, `threshold` of `dominance_certificate`.

    Returns:
        The certificate; for paired data with the margin view.

    Raises:
        DataError: shapes differ, only one label is present, or paired rows do not alternate.

    Example:
        >>> import numpy as np
        >>> policy, reference = np.array([-1.0, -3.0, -2.0, -4.0]), np.full(4, -2.5)
        >>> certificate_from_scores(
        ...     policy, reference, np.array([True, False] * 2), paired=True, resamples=50
        ... ).auc
        1.0
    """
    if not policy.shape == reference.shape == desirable.shape:
        raise DataError(
            "there must be one policy score, one reference score and one label per row, got shapes "
            f"{policy.shape}, {reference.shape} and {desirable.shape}"
        )
    if paired and not (desirable[0::2].all() and not desirable[1::2].any()):
        raise DataError("paired rows must alternate chosen and rejected; pass paired=False for labelled rows")
    if desirable.all() or not desirable.any():
        only = "preferred" if desirable.any() else "other"
        raise DataError(
            f"all {desirable.size} rows are {only} responses; dominance compares two kinds, so add the rest"
        )
    reference = reference.astype(np.float64)
    policy = policy.astype(np.float64)
    if noise is not None and bool(np.all(np.abs(policy - reference) <= noise)):
        policy = reference
    rewards = policy - reference
    margins = (policy[0::2] - policy[1::2], reference[0::2] - reference[1::2]) if paired else None
    return dominance_certificate(
        rewards[desirable], rewards[~desirable], paired=paired, margins=margins, **options
    )


def _active(
    reference: nn.Module | Reference | None,
) -> AbstractContextManager[nn.Module | None]:
    """The model that computes the reference's scores, while open; None where they are known."""
    if reference is None or isinstance(reference, nn.Module):
        return nullcontext(reference)
    return reference.active()


def _rows(dataset: RowSource) -> Iterator[TokenRow]:
    """Rows one after another, never all of them at a time."""
    return (row for index in range(len(dataset)) for row in dataset[index])


def _labels_and_lengths(dataset: RowSource) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Of each row whether it is preferred, and how many of its tokens are scored; (rows,) each."""
    known: Any = dataset  # a data set on disk knows both without reading its rows
    if hasattr(known, "desirable") and hasattr(known, "scored_lengths"):
        return known.desirable, known.scored_lengths
    found = np.array([(row.desirable, row.scored_length) for row in _rows(dataset)], dtype=np.int64)
    return found[:, 0].astype(np.bool_), found[:, 1]


def _known_reference_scores(dataset: RowSource) -> NDArray[np.float64]:
    """The reference scores that the rows carry."""
    scores = np.array([row.reference_score for row in _rows(dataset)], dtype=np.float64)
    missing = int(np.isnan(scores).sum())
    if missing:
        raise DataError(
            f"{missing} of {scores.size} rows carry no reference score and no reference model was given; "
            "pass the reference model that rewards are measured against"
        )
    return scores
