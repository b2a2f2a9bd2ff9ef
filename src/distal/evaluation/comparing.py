"""Two laws compared: everything that a certificate says of them, whatever they are the laws of."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from distal.errors import ConfigError, DataError
from distal.evaluation.intervals import (
    contrast_p_value,
    expanded_tail,
    fewest_resamples,
    percentile_interval,
    ratio_interval,
)
from distal.evaluation.laws import Frame, Statistics, merged_cells
from distal.evaluation.lengths import Strata
from distal.evaluation.parts import RatioTest, SecondOrder
from distal.evaluation.records import QuantileCurves
from distal.evaluation.resampling import Groups, Plan, bootstrap, observed
from distal.evaluation.statistics import FloatArray, SortedPair
from distal.transport import dominance_test, transport_plan
from distal.transport.dominance import Order

__all__ = ["LEVELS", "Compared", "Comparison", "Settings", "check_options", "compare", "effective_size"]

LEVELS: FloatArray = np.arange(1, 100) / 100
"""Levels of the quantile curves: 1 % to 99 %. Beyond, a held-out set has too few samples for a curve."""


_FEWEST_RESAMPLES = 20
"""Needed at any confidence, for quantiles of the draws to mean anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is asked, and how sure.

    Attributes:
        paired: whether u_i and v_i belong together.
        confidence: of the intervals; tests are at level `1 - confidence`.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        threshold: largest violation ratio that counts as almost dominance.
        order: 2 adds second order.
        labels: which samples belong together, as the user gave it: an array if paired, else a tuple of two.
    """

    paired: bool
    confidence: float
    resamples: int
    seed: int
    threshold: float
    order: Order = 1
    labels: object = None


def check_options(
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    threshold: float = 0.25,
    order: int = 1,
) -> None:
    """Refuse options of `dominance_certificate` that are out of range, before anything is computed.

    Raises:
        ConfigError: an option out of range.
    """
    for name, value in (("resamples", resamples), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ConfigError(f"{name} must be a whole number, got {value!r}")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie strictly between 0 and 1, got {confidence}; 0.95 is usual")
    needed = max(_FEWEST_RESAMPLES, fewest_resamples(confidence))
    if resamples < needed:
        raise ConfigError(
            f"resamples must be at least {needed} for intervals of confidence {confidence:g} to say anything, got "
            f"{resamples}; with fewer none of them could lie below the threshold"
        )
    if not 0 < threshold <= 0.5:
        raise ConfigError(
            f"threshold must lie in (0, 0.5], got {threshold}; above one half the other side dominates rather"
        )
    if isinstance(order, bool) or order not in (1, 2):
        raise ConfigError(f"order must be 1, or 2 for second order as well, got {order!r}")


class Comparison(TypedDict):
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
    test: RatioTest | None
    second_order: SecondOrder | None


@dataclass(frozen=True, slots=True)
class Compared:
    """Two laws compared, with what the numbers came from.

    Attributes:
        fields: the fields of `LawComparison`.
        seen: statistics of the samples, one row.
        draws: statistics of the resamples.
        tail: share of the draws that intervals leave out at either end.
        groups: number of groups that were drawn as wholes; None where single pairs or samples were.
    """

    fields: Comparison
    seen: Statistics
    draws: Statistics
    tail: float
    groups: int | None

    def interval(self, draws: FloatArray) -> tuple[float, float]:
        """Interval of one statistic."""
        low, high = percentile_interval(draws, self.tail)
        return float(low), float(high)


def compare(u: FloatArray, v: FloatArray, settings: Settings, strata: Strata | None = None) -> Compared:
    """Compare the law of u with that of v.

    Args:
        u: rewards that should dominate, shape (n,), finite, n >= 2.
        v: rewards to be dominated, shape (m,).
        settings: what is asked.
        strata: give both laws one distribution over these.

    Raises:
        DataError: labels that do not fit the samples.
    """
    groups = _groups(settings, u.size, v.size)
    plan = Plan(settings.paired, groups, strata)
    # Pairs whose sides weigh differently have no accuracy.
    frame = Frame.of(
        u, v, LEVELS, paired=settings.paired and strata is None, second_order=settings.order == 2
    )
    seen = observed(frame, plan)
    draws = bootstrap(frame, plan, settings.resamples, settings.seed)
    if not draws.auc.size:
        raise DataError("no resample holds both sides; there are too few prompts or lengths to say anything")
    independent = _independent(u, v, groups, strata)
    tail = expanded_tail(settings.confidence, independent)
    ratio = _ratio(seen.wrong, seen.right)
    interval = None
    if ratio is not None:
        interval = ratio_interval(seen, draws, confidence=settings.confidence, independent=independent)
    low, high = percentile_interval(draws.mean_gap, tail)
    fields = Comparison(
        samples=independent,
        violation_ratio=ratio,
        violation_ratio_ci=interval,
        undefined_reason=None if ratio is not None else _why_undefined(u, v),
        violated_share=_violated_share(u, v, strata),
        mean_gap=float(seen.mean_gap[0]),
        mean_gap_ci=(float(low), float(high)),
        curves=_curves(frame, strata, draws, tail),
        confidence=settings.confidence,
        threshold=settings.threshold,
        test=None if ratio is None else _test(u, v, settings, seen, draws, strata is not None),
        second_order=None,
    )
    if settings.order == 2:
        fields["second_order"] = _second_order(u, v, settings, seen, draws, fields, strata is not None)
    return Compared(fields, seen, draws, tail, None if groups is None else groups.count)


def _groups(settings: Settings, n: int, m: int) -> Groups | None:
    try:
        return Groups.of(settings.labels, n, m, paired=settings.paired)
    except (ValueError, TypeError) as error:
        raise DataError(f"the labels of rows that belong together: {error}") from error


def _independent(u: FloatArray, v: FloatArray, groups: Groups | None, strata: Strata | None) -> int:
    """Independent samples on the smaller side."""
    count = min(u.size, v.size) if groups is None else groups.independent
    if strata is None:
        return count
    weights = strata.weights(np.ones((1, u.size), dtype=np.intp), np.ones((1, v.size), dtype=np.intp))
    return min(count, *(int(effective_size(side[0])) for side in weights))


def effective_size(weights: FloatArray) -> float:
    """Samples of equal weight that weighted ones are worth (Kish): `(sum w)^2 / sum w^2`."""
    squares = float(np.square(weights).sum())
    return 0.0 if squares == 0 else float(weights.sum()) ** 2 / squares


def _ratio(wrong: FloatArray, right: FloatArray) -> float | None:
    """The violation ratio of one row, None where it is 0/0."""
    distance = float(wrong[0] + right[0])
    return float(wrong[0]) / distance if distance > 0 else None


def _test(
    u: FloatArray,
    v: FloatArray,
    settings: Settings,
    seen: Statistics,
    draws: Statistics,
    weighted: bool,
    order: Order = 1,
) -> RatioTest | None:
    """The test of one order; None where its p-value is undefined."""
    if weighted:
        p_value = contrast_p_value(seen, draws, settings.threshold, order=order)
        null = f"the violation ratio of order {order} is at least {settings.threshold:g}"
        found = RatioTest(null=null, p_value=p_value, method="bootstrap_error")
    else:
        # By the normal law: instantaneous. Its size: docs, Testing dominance.
        outcome = dominance_test(
            torch.from_numpy(u),
            torch.from_numpy(v),
            order=order,
            level=1 - settings.confidence,
            threshold=settings.threshold,
            method="asymptotic",
            paired=settings.paired,
            clusters=settings.labels,
        )
        found = RatioTest(null=outcome.null, p_value=outcome.p_value, method=outcome.method)
    return found if found.p_value == found.p_value else None


def _second_order(
    u: FloatArray,
    v: FloatArray,
    settings: Settings,
    seen: Statistics,
    draws: Statistics,
    first: Comparison,
    weighted: bool,
) -> SecondOrder:
    """The same questions of integrated quantiles."""
    assert seen.integrated is not None
    assert draws.integrated is not None
    assert seen.wrong2 is not None
    assert seen.right2 is not None
    independent = first["samples"]
    low, high = percentile_interval(draws.integrated, expanded_tail(settings.confidence, independent))
    ratio = None if first["violation_ratio"] is None else _ratio(seen.wrong2, seen.right2)
    interval, test = None, None
    if ratio is not None:
        interval = ratio_interval(
            seen, draws, confidence=settings.confidence, independent=independent, order=2
        )
        test = _test(u, v, settings, seen, draws, weighted, 2)
    return SecondOrder(
        samples=independent,
        violation_ratio=ratio,
        violation_ratio_ci=interval,
        undefined_reason=first["undefined_reason"],
        gap=tuple(seen.integrated[0].tolist()),
        gap_low=tuple(low.tolist()),
        gap_high=tuple(high.tolist()),
        test=test,
        confidence=settings.confidence,
        threshold=settings.threshold,
    )


def _why_undefined(u: FloatArray, v: FloatArray) -> str:
    """What makes the violation ratio 0/0."""
    if u.min() == u.max() == v.min() == v.max():
        return "all rewards coincide, as before training"
    return "both distributions coincide, as before training"


def _violated_share(u: FloatArray, v: FloatArray, strata: Strata | None) -> float:
    """Measure of the levels t in (0, 1) at which Q_U(t) < Q_V(t), exactly."""
    pair = SortedPair.of(u, v)
    if strata is None:
        plan = transport_plan(torch.from_numpy(pair.u), torch.from_numpy(pair.v))
        u_rank, v_rank, mass = (part.numpy() for part in (plan.u_index, plan.v_index, plan.mass))
    else:
        u_rank, v_rank, mass = merged_cells(*_sorted_weights(pair, strata))
    return min(float(mass[pair.u[u_rank] < pair.v[v_rank]].sum()), 1.0)


def _sorted_weights(pair: SortedPair, strata: Strata | None) -> tuple[FloatArray, FloatArray]:
    """Weights of the sorted samples, each side adding up to 1."""
    ones: tuple[NDArray[np.intp], NDArray[np.intp]] = (
        np.ones((1, pair.u.size), dtype=np.intp),
        np.ones((1, pair.v.size), dtype=np.intp),
    )
    if strata is None:
        return ones[0][0] / pair.u.size, ones[1][0] / pair.v.size
    on_u, on_v = strata.weights(*ones)
    return on_u[0][pair.u_order], on_v[0][pair.v_order]


def _curves(frame: Frame, strata: Strata | None, draws: Statistics, tail: float) -> QuantileCurves:
    """Both quantile curves and the band of their gap."""
    low, high = percentile_interval(draws.gap, tail)
    weights = _sorted_weights(frame.pair, strata)
    u, v = frame.quantiles(*weights)
    return QuantileCurves(
        levels=tuple(LEVELS.tolist()),
        u=tuple(u.tolist()),
        v=tuple(v.tolist()),
        gap_low=tuple(low.tolist()),
        gap_high=tuple(high.tolist()),
    )
