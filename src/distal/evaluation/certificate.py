"""The dominance certificate: do rewards of preferred responses dominate those of the others?"""

from __future__ import annotations

import math
from typing import NotRequired, TypedDict

import numpy as np
import torch

from distal.errors import ConfigError, DataError
from distal.evaluation.records import DominanceCertificate, LawComparison, QuantileCurves
from distal.evaluation.statistics import (
    BootstrapDraws,
    FloatArray,
    RewardsLike,
    SortedPair,
    area_under_curve,
    as_rewards,
    bootstrap,
    pair_credits,
    percentile_interval,
    quantiles,
)
from distal.transport import bootstrap_violation_ratio, transport_plan, violation_ratio

__all__ = ["LEVELS", "CertificateOptions", "check_options", "dominance_certificate"]

LEVELS: FloatArray = np.arange(1, 100) / 100
"""Levels of the quantile curves: 1 % to 99 %. Beyond, a held-out set has too few samples for a curve."""


class CertificateOptions(TypedDict):
    """Options of `dominance_certificate`, for functions that pass them on."""

    confidence: NotRequired[float]
    resamples: NotRequired[int]
    seed: NotRequired[int]
    threshold: NotRequired[float]


def dominance_certificate(
    preferred: RewardsLike,
    other: RewardsLike,
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    threshold: float = 0.25,
    margins: tuple[RewardsLike, RewardsLike] | None = None,
) -> DominanceCertificate:
    """State whether rewards of preferred responses dominate those of the others, with its uncertainty.

    With Q_U and Q_V the quantile functions of preferred and other rewards, U dominates V to first order iff
    Q_U(t) >= Q_V(t) for every t in (0, 1). The violation ratio
    `int (Q_V - Q_U)_+^2 dt / int (Q_V - Q_U)^2 dt` measures what is missing: 0 iff U dominates, 1 iff V does,
    undefined (None) where the laws coincide, as before training. Intervals are percentile bootstrap.
    The rule behind the verdict is stated in `distal.evaluation.verdict`.

    Args:
        preferred: held-out rewards (policy score minus reference score, nats) of preferred responses, (n,).
        other: rewards of the other responses, (m,); when paired, n = m and row i answers the same prompt.
        paired: whether `preferred[i]` and `other[i]` belong together; pairs are then resampled jointly.
        confidence: confidence of intervals and of the quantile gap's pointwise band, in (0, 1).
        resamples: bootstrap resamples, at least 20.
        seed: seed of the resamples; the same seed gives the same certificate.
        threshold: largest violation ratio that counts as almost dominance, in (0, 1/2].
        margins: for paired data, policy margins and reference margins (score of chosen minus that of
            rejected, nats, (n,) each): adds the paired view, in which the former are to dominate the latter.

    Returns:
        The certificate.

    Raises:
        DataError: fewer than two rewards on a side, unequal counts although paired, margins without pairs.
        NonFiniteError: a reward is NaN or infinite.
        ConfigError: an option out of range.

    Example:
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
    check_options(confidence=confidence, resamples=resamples, seed=seed, threshold=threshold)
    u, v = as_rewards(preferred, "preferred"), as_rewards(other, "other")
    if paired and u.size != v.size:
        raise DataError(
            f"paired rewards come in equal numbers, got {u.size} preferred and {v.size} other; "
            "pass paired=False if they do not answer the same prompts"
        )
    settings = _Settings(
        paired=paired, confidence=confidence, resamples=resamples, seed=seed, threshold=threshold
    )
    comparison, draws = _compare(u, v, settings)
    credit = pair_credits(u, v) if paired else None
    return DominanceCertificate(
        **comparison,
        kind="paired" if paired else "unpaired",
        n_preferred=u.size,
        n_other=v.size,
        auc=area_under_curve(u, v),
        auc_ci=_interval(draws.auc, confidence),
        accuracy=None if credit is None else float(credit.mean()),
        accuracy_ci=None if draws.accuracy is None else _interval(draws.accuracy, confidence),
        tied_pairs=None if credit is None else int(np.count_nonzero(u == v)),
        margins=None if margins is None else _margin_view(margins, u.size, settings),
        resamples=resamples,
        seed=seed,
    )


class _Settings(TypedDict):
    paired: bool
    confidence: float
    resamples: int
    seed: int
    threshold: float


class _Comparison(TypedDict):
    """The fields of `LawComparison`."""

    samples: int
    violation_ratio: float | None
    violation_ratio_ci: tuple[float, float] | None
    undefined_reason: str | None
    violated_share: float
    mean_gap: float
    mean_gap_ci: tuple[float, float]
    curves: QuantileCurves
    confidence: float
    threshold: float


def check_options(
    *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0, threshold: float = 0.25
) -> None:
    """Refuse options of `dominance_certificate` that are out of range, before anything is computed.

    Raises:
        ConfigError: an option out of range.
    """
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie strictly between 0 and 1, got {confidence}; 0.95 is usual")
    if resamples < 20:
        raise ConfigError(f"resamples must be at least 20 for an interval to mean anything, got {resamples}")
    if not 0 < threshold <= 0.5:
        raise ConfigError(
            f"threshold must lie in (0, 0.5], got {threshold}; above one half the other side dominates rather"
        )


def _margin_view(margins: tuple[RewardsLike, RewardsLike], n: int, settings: _Settings) -> LawComparison:
    """The paired view: do policy margins dominate reference margins?"""
    policy, reference = as_rewards(margins[0], "policy-margin"), as_rewards(margins[1], "reference-margin")
    if not settings["paired"]:
        raise DataError("margins exist for paired data only; leave them out or pass paired=True")
    if not policy.size == reference.size == n:
        raise DataError(
            f"there must be one policy margin and one reference margin per pair, got {policy.size} and "
            f"{reference.size} for {n} pairs"
        )
    return LawComparison(**_compare(policy, reference, settings)[0])


def _compare(u: FloatArray, v: FloatArray, settings: _Settings) -> tuple[_Comparison, BootstrapDraws]:
    """Everything that is asked of two laws, whatever they are the laws of."""
    confidence, resamples, seed = settings["confidence"], settings["resamples"], settings["seed"]
    draws = bootstrap(u, v, LEVELS, paired=settings["paired"], resamples=resamples, seed=seed)
    ratio, interval = _violation_ratio(u, v, settings)
    comparison = _Comparison(
        samples=min(u.size, v.size),
        violation_ratio=ratio,
        violation_ratio_ci=interval,
        undefined_reason=None if ratio is not None else _why_undefined(u, v),
        violated_share=_violated_share(u, v),
        mean_gap=float(u.mean() - v.mean()),
        mean_gap_ci=_interval(draws.mean_gap, confidence),
        curves=_curves(u, v, draws, confidence),
        confidence=confidence,
        threshold=settings["threshold"],
    )
    return comparison, draws


def _violation_ratio(
    u: FloatArray, v: FloatArray, settings: _Settings
) -> tuple[float | None, tuple[float, float] | None]:
    """Violation ratio and its interval, None each where undefined."""
    ut, vt = torch.from_numpy(u), torch.from_numpy(v)
    ratio = violation_ratio(ut, vt, order=1)
    if math.isnan(ratio):
        return None, None
    low, high = bootstrap_violation_ratio(
        ut,
        vt,
        order=1,
        level=settings["confidence"],
        resamples=settings["resamples"],
        seed=settings["seed"],
        paired=settings["paired"],
    )
    return float(ratio), None if math.isnan(low) or math.isnan(high) else (float(low), float(high))


def _why_undefined(u: FloatArray, v: FloatArray) -> str:
    """What makes the violation ratio 0/0."""
    if u.min() == u.max() == v.min() == v.max():
        return "all rewards coincide, as before training"
    return "both distributions coincide, as before training"


def _violated_share(u: FloatArray, v: FloatArray) -> float:
    """Measure of the levels t in (0, 1) at which Q_U(t) < Q_V(t), exactly, from the co-monotone plan."""
    pair = SortedPair.of(u, v)
    plan = transport_plan(torch.from_numpy(pair.u), torch.from_numpy(pair.v))
    violated = pair.u[plan.u_index.numpy()] < pair.v[plan.v_index.numpy()]
    return min(float(plan.mass.numpy()[violated].sum()), 1.0)


def _curves(u: FloatArray, v: FloatArray, draws: BootstrapDraws, confidence: float) -> QuantileCurves:
    """Both quantile curves and the band of their gap."""
    low, high = percentile_interval(draws.gap, confidence)
    return QuantileCurves(
        levels=tuple(LEVELS.tolist()),
        u=tuple(quantiles(np.sort(u), LEVELS).tolist()),
        v=tuple(quantiles(np.sort(v), LEVELS).tolist()),
        gap_low=tuple(low.tolist()),
        gap_high=tuple(high.tolist()),
    )


def _interval(draws: FloatArray, confidence: float) -> tuple[float, float]:
    """Percentile interval of one statistic."""
    low, high = percentile_interval(draws, confidence)
    return float(low), float(high)
