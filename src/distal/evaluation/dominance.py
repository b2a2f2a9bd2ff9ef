"""From a model, its reference and held-out preferences to a dominance certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from distal.errors import DataError
from distal.evaluation.certificate import CertificateOptions, check_options, dominance_certificate
from distal.evaluation.records import DominanceCertificate
from distal.evaluation.scored import RowFacts, ScoredRows
from distal.evaluation.slices import Attributes
from distal.scoring import (
    Layout,
    Passes,
    Reference,
    cached_scores,
    choose_layout,
    compute_dtype,
    score_dataset,
    score_noise,
)
from distal.types import RowSource

__all__ = ["certificate_from_scores", "certify_rows", "evaluate_dominance", "score_rows"]


def evaluate_dominance(  # noqa: PLR0913 - what is scored, how fast, and what is asked
    model: nn.Module,
    reference: nn.Module | Reference | None,
    dataset: RowSource,
    *,
    tokens_per_batch: int = 8192,
    layout: Layout | str = "auto",
    autocast_dtype: torch.dtype | None = None,
    progress: bool = True,
    shared: bool = False,
    attributes: Mapping[str, ArrayLike] | None = None,
    by_prompt: bool = True,
    slice_by: Sequence[str] = (),
    length_controlled: bool = False,
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
        attributes: further attributes for slices: name -> one value per unit (pair or sample).
        by_prompt: whether rows of one prompt are resampled together, as they should be.
        slice_by: `completion_length`, `prompt_length`, or names of `attributes`; `:N` behind a name makes N bins.
        length_controlled: whether to add the comparison at equal completion lengths.
        **options: `confidence`, `resamples`, `seed`, `threshold`, `order` of `dominance_certificate`.

    Returns:
        The certificate; for paired data with the margin view.

    Raises:
        DataError: an empty data set, only one label, or no reference scores although `reference` is None.
        NonFiniteError: a score is NaN or infinite.
        ConfigError: an option out of range, before anything is scored.
    """
    check_options(**options)
    rows = score_rows(
        model,
        reference,
        dataset,
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        autocast_dtype=autocast_dtype,
        progress=progress,
        shared=shared,
        attributes=attributes,
    )
    return certify_rows(
        rows, by_prompt=by_prompt, slice_by=slice_by, length_controlled=length_controlled, **options
    )


def score_rows(  # noqa: PLR0913 - what is scored, and how fast
    model: nn.Module,
    reference: nn.Module | Reference | None,
    dataset: RowSource,
    *,
    tokens_per_batch: int = 8192,
    layout: Layout | str = "auto",
    autocast_dtype: torch.dtype | None = None,
    progress: bool = True,
    shared: bool = False,
    attributes: Mapping[str, ArrayLike] | None = None,
    cache_dir: Path | None = None,
) -> ScoredRows:
    """Score every row under a model and its reference; arguments and errors as of `evaluate_dominance`.

    With `cache_dir`, scores go through the cache in that folder, which then freezes both models.
    """
    if not len(dataset):
        raise DataError(
            "the held-out data set is empty, so there is nothing to evaluate; give it at least 2 rows"
        )
    facts = RowFacts.of(dataset)

    def scores_of(scored: nn.Module | Reference, name: str, layout: Layout) -> NDArray[Any]:
        how: dict[str, Any] = {
            "tokens_per_batch": tokens_per_batch,
            "layout": layout,
            "autocast_dtype": autocast_dtype,
            "progress": f"scoring the {name}" if progress else None,
            "shared": shared,
        }
        if cache_dir is not None:
            return cached_scores(scored, dataset, Passes(**how), cache_dir=cache_dir).scores
        with _active(scored) as active:
            return score_dataset(cast(nn.Module, active), dataset, **how)

    with _active(reference) as active:
        if isinstance(layout, str):
            models = [model] if active is None or active is model else [model, active]
            layout = choose_layout(layout, models, autocast_dtype=autocast_dtype)
    reference_scores = (
        _known_reference_scores(facts) if reference is None else scores_of(reference, "reference", layout)
    )
    return ScoredRows.of(
        dataset,
        facts,
        scores_of(model, "policy", layout),
        reference_scores,
        noise=score_noise(compute_dtype(model, autocast_dtype), facts.completion_lengths),
        attributes=attributes,
    )


def certify_rows(
    rows: ScoredRows,
    *,
    by_prompt: bool = True,
    slice_by: Sequence[str] = (),
    length_controlled: bool = False,
    **options: Unpack[CertificateOptions],
) -> DominanceCertificate:
    """A dominance certificate from scored rows.

    Args:
        rows: the scores, with what is known of each row.
        by_prompt: whether rows of one prompt are resampled together.
        slice_by: attributes that the data is cut by; see `ScoredRows.slices_by`.
        length_controlled: whether to add the comparison at equal completion lengths.
        **options: `confidence`, `resamples`, `seed`, `threshold`, `order` of `dominance_certificate`.

    Raises:
        DataError: only one label is present, or a score is missing.
        ConfigError: an option out of range, or an attribute that is not there.
    """
    return certificate_from_scores(
        rows.policy,
        rows.reference,
        rows.desirable,
        paired=rows.kind == "paired",
        noise=rows.noise,
        clusters=rows.clusters() if by_prompt else None,
        lengths=rows.lengths() if length_controlled else None,
        attributes=rows.slices_by(slice_by) if slice_by else None,
        **options,
    )


def certificate_from_scores(
    policy: NDArray[Any],
    reference: NDArray[Any],
    desirable: NDArray[np.bool_],
    *,
    paired: bool,
    noise: NDArray[np.float64] | None = None,
    clusters: object = None,
    lengths: tuple[ArrayLike, ArrayLike] | None = None,
    attributes: Attributes | None = None,
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
        clusters: as in `dominance_certificate`.
        lengths: as in `dominance_certificate`.
        attributes: as in `dominance_certificate`.
        **options: `confidence`, `resamples`, `seed`, `threshold`, `order` of `dominance_certificate`.

    Returns:
        The certificate; for paired data with the margin view.

    Raises:
        DataError: shapes differ, only one label is present, or paired rows do not alternate or are odd in number.

    Examples:
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
    if paired and desirable.size % 2:
        raise DataError(
            f"paired rows come in twos, chosen and rejected, got {desirable.size} rows; complete the last pair or "
            "leave it out"
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
        rewards[desirable],
        rewards[~desirable],
        paired=paired,
        margins=margins,
        clusters=clusters,
        lengths=lengths,
        attributes=attributes,
        **options,
    )


def _active(
    reference: nn.Module | Reference | None,
) -> AbstractContextManager[nn.Module | None]:
    """The model that computes the reference's scores, while open; None where they are known."""
    if reference is None or isinstance(reference, nn.Module):
        return nullcontext(reference)
    return reference.active()


def _known_reference_scores(facts: RowFacts) -> NDArray[np.float64]:
    """The reference scores that the rows carry."""
    scores = facts.reference
    missing = int(np.isnan(scores).sum())
    if missing:
        raise DataError(
            f"{missing} of {scores.size} rows carry no reference score and no reference model was given; "
            "pass the reference model that rewards are measured against"
        )
    return scores
