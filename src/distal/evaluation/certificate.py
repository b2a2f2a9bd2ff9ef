"""The dominance certificate: do rewards of preferred responses dominate those of the others?"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distal.errors import DataError
from distal.evaluation.comparing import LEVELS, Settings, check_options, compare, effective_size
from distal.evaluation.lengths import Strata
from distal.evaluation.parts import LengthBalance
from distal.evaluation.records import DominanceCertificate, LawComparison, LengthControl
from distal.evaluation.slices import Attributes, sliced
from distal.evaluation.statistics import (
    FloatArray,
    RewardsLike,
    area_under_curve,
    as_rewards,
    pair_credits,
)
from distal.transport.dominance import Order

__all__ = ["LEVELS", "CertificateOptions", "check_options", "dominance_certificate"]


class CertificateOptions(TypedDict):
    """Options of `dominance_certificate`, for functions that pass them on."""

    confidence: NotRequired[float]
    resamples: NotRequired[int]
    seed: NotRequired[int]
    threshold: NotRequired[float]
    order: NotRequired[Order]


def dominance_certificate(  # noqa: PLR0913 - two samples, how they belong together, and what is asked of them
    preferred: RewardsLike,
    other: RewardsLike,
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    threshold: float = 0.25,
    order: Order = 1,
    margins: tuple[RewardsLike, RewardsLike] | None = None,
    clusters: object = None,
    lengths: tuple[ArrayLike, ArrayLike] | None = None,
    attributes: Attributes | None = None,
) -> DominanceCertificate:
    """State whether rewards of preferred responses dominate those of the others, with its uncertainty.

    With Q_U and Q_V the quantile functions of preferred and other rewards, U dominates V to first order iff
    Q_U(t) >= Q_V(t) for every t in (0, 1). The violation ratio
    `int (Q_V - Q_U)_+^2 dt / int (Q_V - Q_U)^2 dt` measures what is missing: 0 iff U dominates, 1 iff V does,
    undefined (None) where the laws coincide, as before training. Intervals are bootstrap intervals
    (`distal.evaluation.intervals`). The rule behind the verdict is stated in `distal.evaluation.verdict`.

    Args:
        preferred: held-out rewards (policy score minus reference score, nats) of preferred responses, (n,).
        other: rewards of the other responses, (m,); when paired, n = m and row i answers the same prompt.
        paired: whether `preferred[i]` and `other[i]` belong together; pairs are then resampled jointly.
        confidence: confidence of intervals and of the quantile gap's pointwise band, in (0, 1).
        resamples: bootstrap resamples, at least 20 and `2 / (1 - confidence) - 1`: 39 at 95 %, 199 at 99 %.
        seed: seed of the resamples; the same seed gives the same certificate.
        threshold: largest violation ratio that counts as almost dominance, in (0, 1/2].
        order: 2 adds second order, dominance of integrated quantiles.
        margins: for paired data, policy margins and reference margins (score of chosen minus that of
            rejected, nats, (n,) each): adds the paired view, in which the former are to dominate the latter.
        clusters: labels of rows that belong together, such as prompts, which are resampled as wholes: an array
            of n labels if paired, else a tuple of n and m labels.
        lengths: completion lengths of both sides, (n,) and (m,): adds the length-controlled comparison
            (`distal.evaluation.lengths`).
        attributes: adds slices: attribute -> labels, (n,) if paired, else a tuple of (n,) and (m,).

    Returns:
        The certificate.

    Raises:
        DataError: fewer than two rewards on a side, unequal counts although paired, margins without pairs, or
            labels, lengths or attributes that do not fit.
        NonFiniteError: a reward is NaN or infinite.
        ConfigError: an option out of range.

    Examples:
        >>> rewards = np.linspace(-1.0, 1.0, 200)
        >>> certificate = dominance_certificate(rewards + 0.5, rewards, paired=True, resamples=200)
        >>> certificate.violation_ratio, certificate.accuracy, certificate.decision
        (0.0, 1.0, 'dominance')
        >>> dominance_certificate(np.zeros(9), np.zeros(9), paired=True).violation_ratio is None
        True

    References:
        Melnyk et al. 2024, arXiv 2406.05882 (definitions 1 and 2); violation ratio: arXiv 2310.07132, after
        del Barrio, Cuesta-Albertos and Matran 2018.
    """
    check_options(confidence=confidence, resamples=resamples, seed=seed, threshold=threshold, order=order)
    u, v = as_rewards(preferred, "preferred"), as_rewards(other, "other")
    if paired and u.size != v.size:
        raise DataError(
            f"paired rewards come in equal numbers, got {u.size} preferred and {v.size} other; "
            "pass paired=False if they do not answer the same prompts"
        )
    settings = Settings(
        paired=paired,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        threshold=threshold,
        order=order,
        labels=clusters,
    )
    compared = compare(u, v, settings)
    credit, accuracy = (pair_credits(u, v) if paired else None), compared.draws.accuracy
    return DominanceCertificate(
        **compared.fields,
        kind="paired" if paired else "unpaired",
        n_preferred=u.size,
        n_other=v.size,
        auc=area_under_curve(u, v),
        auc_ci=compared.interval(compared.draws.auc),
        accuracy=None if credit is None else float(credit.mean()),
        accuracy_ci=None if accuracy is None else compared.interval(accuracy),
        tied_pairs=None if credit is None else int(np.count_nonzero(u == v)),
        margins=None if margins is None else _margin_view(margins, u.size, settings),
        resamples=resamples,
        seed=seed,
        clusters=compared.groups,
        length_controlled=None if lengths is None else _length_controlled(u, v, lengths, settings),
        slices=None if attributes is None else sliced(u, v, attributes, settings),
    )


def _margin_view(margins: tuple[RewardsLike, RewardsLike], n: int, settings: Settings) -> LawComparison:
    """The paired view: do policy margins dominate reference margins?"""
    policy, reference = as_rewards(margins[0], "policy-margin"), as_rewards(margins[1], "reference-margin")
    if not settings.paired:
        raise DataError("margins exist for paired data only; leave them out or pass paired=True")
    if not policy.size == reference.size == n:
        raise DataError(
            f"there must be one policy margin and one reference margin per pair, got {policy.size} and "
            f"{reference.size} for {n} pairs"
        )
    return LawComparison(**compare(policy, reference, settings).fields)


def _length_controlled(
    u: FloatArray, v: FloatArray, lengths: tuple[ArrayLike, ArrayLike], settings: Settings
) -> LengthControl:
    """The comparison at equal lengths."""
    u_lengths, v_lengths = (
        _as_lengths(given, side.size, name)
        for given, side, name in ((lengths[0], u, "preferred"), (lengths[1], v, "other"))
    )
    strata = Strata.of(u_lengths, v_lengths)
    weights = strata.weights(np.ones((1, u.size), dtype=np.intp), np.ones((1, v.size), dtype=np.intp))
    if not weights[0].any():
        raise DataError(
            "no length is found among preferred and other completions alike, so that nothing can be compared at "
            "equal length; leave out the length-controlled comparison"
        )
    compared = compare(u, v, settings, strata)
    balance = LengthBalance(
        strata=int(np.unique(strata.u[weights[0][0] > 0]).size),
        mean_preferred=float(u_lengths.mean()),
        mean_other=float(v_lengths.mean()),
        weighted_preferred=float(weights[0][0] @ u_lengths),
        weighted_other=float(weights[1][0] @ v_lengths),
        left_out_preferred=float(np.mean(weights[0][0] == 0)),
        left_out_other=float(np.mean(weights[1][0] == 0)),
        effective_preferred=effective_size(weights[0][0]),
        effective_other=effective_size(weights[1][0]),
    )
    return LengthControl(
        **compared.fields,
        auc=float(compared.seen.auc[0]),
        auc_ci=compared.interval(compared.draws.auc),
        balance=balance,
    )


def _as_lengths(given: ArrayLike, count: int, name: str) -> NDArray[np.int64]:
    """Lengths as whole numbers, one per reward."""
    lengths = np.asarray(given)
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu":
        raise DataError(
            f"there must be one whole number of tokens per {name} reward, {count} of them, got shape "
            f"{lengths.shape} of {lengths.dtype}"
        )
    return lengths.astype(np.int64)
