"""Confidence intervals and p-values from bootstrap draws.

Percentile intervals of n independent samples are too narrow by `sqrt((n - 1) / n)`, and by what Student's law has over
the normal one; their tail is therefore taken at `Phi(-sqrt(n / (n - 1)) t)` with t the quantile of Student's law
with n - 1 degrees of freedom (the expanded percentile interval of Hesterberg 2015).

The violation ratio has ends, 0 where u dominates v and 1 where v dominates u, and there a percentile interval that
ends inside (0, 1) misses the truth too often: a sample of a dominating law shows violations by chance. So the
interval reaches down to 0 unless dominance itself is rejected, by the largest excess of one distribution function over
the other (of integrated quantiles, at second order) against its bootstrap law, and up to 1 unless the reverse is.
How often the intervals cover: `benchmarks/coverage.py`.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from distal.evaluation.laws import Statistics
from distal.evaluation.statistics import FloatArray

__all__ = [
    "contrast_p_value",
    "expanded_tail",
    "fewest_resamples",
    "interval_p_value",
    "percentile_interval",
    "ratio_interval",
    "ratio_of",
]

_NORMAL = NormalDist()
_ROUNDING = 1e-12
_SLACK = 1e-9
"""Relative rounding of levels: `1 - 0.9` is a little less than 0.1."""


def fewest_resamples(confidence: float, questions: int = 1) -> int:
    """Resamples from which an interval can end inside (0, 1): `ceil(2 / (1 - confidence)) - 1`.

    Its ends are moved only where a bootstrap p-value, which is at least `1 / (1 + resamples)`, is at most half of
    `1 - confidence`. With fewer resamples every interval is [0, 1].

    Args:
        confidence: of the interval, in (0, 1).
        questions: how many are answered together, each at the level `(1 - confidence) / questions`.

    Examples:
        >>> fewest_resamples(0.95), fewest_resamples(0.9), fewest_resamples(0.999), fewest_resamples(0.95, 8)
        (39, 19, 1999, 319)
    """
    return math.ceil(2 * questions / (1 - confidence) * (1 - _SLACK)) - 1


def expanded_tail(confidence: float, independent: int) -> float:
    """Share of the draws that is left out at either end.

    Args:
        confidence: of the interval, in (0, 1).
        independent: number of independent samples, prompts for instance, on the smaller side.

    Examples:
        >>> round(expanded_tail(0.95, 50), 4), round(expanded_tail(0.95, 10**9), 4)
        (0.0212, 0.025)
    """
    tail = (1 - confidence) / 2
    if independent < 2:
        return 0.0
    return min(
        tail, _NORMAL.cdf(-math.sqrt(independent / (independent - 1)) * _student(tail, independent - 1))
    )


def _student(tail: float, freedom: int) -> float:
    """Upper quantile of Student's law, by its expansion about the normal one (Abramowitz and Stegun 26.7.5)."""
    z = -_NORMAL.inv_cdf(tail)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def percentile_interval(draws: FloatArray, tail: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end of the central interval of bootstrap draws, over the first axis.

    Args:
        draws: shape (r, ...), r >= 1.
        tail: share left out at either end.
    """
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def ratio_of(wrong: FloatArray, right: FloatArray) -> FloatArray:
    """Violation ratios from both sides; those of laws that coincide, 0/0, are left out."""
    distance = wrong + right
    return wrong[distance > 0] / distance[distance > 0]


def ratio_interval(
    observed: Statistics, draws: Statistics, *, confidence: float, independent: int, order: int = 1
) -> tuple[float, float] | None:
    """Interval of the violation ratio; None where no resample has one.

    Args:
        observed: statistics of the samples, one row.
        draws: statistics of the resamples.
        confidence: in (0, 1).
        independent: number of independent samples on the smaller side.
        order: 1 or 2.
    """
    wrong, right, excess, drawn_excess = _sides(observed, draws, order)
    ratios = ratio_of(wrong, right)
    if not ratios.size:
        return None
    low, high = (float(end) for end in percentile_interval(ratios, expanded_tail(confidence, independent)))
    tail = (1 - confidence) / 2 / (1 - _SLACK)
    if _p_value(excess, drawn_excess) > tail:
        low = 0.0
    if _p_value(-excess, -drawn_excess) > tail:
        high = 1.0
    return low, high


def interval_p_value(observed: Statistics, draws: Statistics, threshold: float, *, independent: int) -> float:
    """The least level `1 - confidence` at which the interval of the violation ratio lies below `threshold`.

    Never less than `2 / (1 + resamples)`; 1 where no interval does.

    Args:
        observed: statistics of the samples, one row.
        draws: statistics of the resamples.
        threshold: in (0, 1).
        independent: number of independent samples on the smaller side.
    """
    wrong, right, excess, drawn_excess = _sides(observed, draws, 1)
    ratios = ratio_of(wrong, right)
    reverse = 2 * _p_value(-excess, -drawn_excess)
    if ratios.size < 2 or reverse >= 1:
        return 1.0
    # The upper end is below the threshold once as many of the draws as are not are left out above it.
    beyond = float(np.mean(ratios >= threshold)) * ratios.size / (ratios.size - 1)
    return max(reverse, _level_of(beyond, independent))


def _level_of(tail: float, independent: int) -> float:
    """The least level whose `expanded_tail` is at least `tail`, by bisection; 1 where there is none."""
    if tail <= 0:
        return 0.0
    if expanded_tail(_ROUNDING, independent) < tail:
        return 1.0
    low, high = 0.0, 1.0
    while high - low > _SLACK * high:
        middle = (low + high) / 2
        low, high = (low, middle) if expanded_tail(1 - middle, independent) >= tail else (middle, high)
    return high


def contrast_p_value(observed: Statistics, draws: Statistics, threshold: float, *, order: int = 1) -> float:
    """One-sided p-value of the null that the violation ratio is at least `threshold`; NaN where undefined.

    With a and p the roots of the wrong and the right side, and `sin^2` the threshold, the ratio is below it exactly if
    `a cos - p sin < 0`. That contrast over its bootstrap standard error is compared with the normal law.
    """
    angle = math.asin(math.sqrt(threshold))
    sides = (observed.wrong, observed.right) if order == 1 else (observed.wrong2, observed.right2)
    wrong, right, *_ = _sides(observed, draws, order)
    assert sides[0] is not None
    assert sides[1] is not None
    a, p = float(np.sqrt(sides[0][0])), float(np.sqrt(sides[1][0]))
    contrasts = np.sqrt(wrong) * math.cos(angle) - np.sqrt(right) * math.sin(angle)
    error = float(contrasts.std(ddof=1)) if contrasts.size > 1 else 0.0
    distance = a * math.cos(angle) - p * math.sin(angle)
    if a == p == 0:
        return math.nan
    return _NORMAL.cdf(distance / error) if error > 0 else float(distance >= 0)


def _sides(
    observed: Statistics, draws: Statistics, order: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Both sides of the draws, and where dominance is violated: by the samples, and by the draws beyond them."""
    if order == 1:
        return draws.wrong, draws.right, observed.lag[0], draws.lag - observed.lag
    assert draws.wrong2 is not None
    assert draws.right2 is not None
    assert draws.integrated is not None
    assert observed.integrated is not None
    return draws.wrong2, draws.right2, -observed.integrated[0], observed.integrated - draws.integrated


def _p_value(excess: FloatArray, drawn: FloatArray) -> float:
    """Share of the draws whose largest deviation is as large as the largest excess, which counts as one of them."""
    largest = float(excess.max())
    return (1 + int((drawn.max(axis=1) >= largest - _ROUNDING).sum())) / (1 + drawn.shape[0])
