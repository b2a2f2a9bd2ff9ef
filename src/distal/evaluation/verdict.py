"""The decision rule that turns a comparison of two reward distributions into words.

The rule, in the order in which it is applied, for confidence c (0.95) and threshold e (0.25):

1. **undefined** where the two distributions coincide: the violation ratio is 0/0.
2. **not supported** where a side holds fewer than 20 independent samples (prompts, where several share one): bootstrap
   intervals from so few are too narrow.
3. **not supported** unless the upper end of the violation ratio's c-interval is below e.
4. **dominance** if moreover the lower edge of the quantile gap's pointwise c-band is above zero at every
   level from 1 % to 99 %. Non-dominance is rejected only if it is rejected at each level, so this joint
   statement needs no correction for their number (an intersection-union test, as in Davidson and Duclos 2013
   for restricted dominance).
5. **almost dominance** otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FEWEST_SAMPLES", "Decision", "Evidence", "decide", "describe", "format_interval", "format_ratio"]

Decision = Literal["dominance", "almost_dominance", "not_supported", "undefined"]

FEWEST_SAMPLES = 20
"""Samples needed on each side before dominance is declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the decision rule looks at.

    Attributes:
        samples: size of the smaller side.
        violation_ratio: first-order violation ratio in [0, 1], None where undefined.
        violation_ratio_ci: its interval, None where undefined.
        undefined_reason: why the ratio is undefined, None where it is not.
        gap_low: lower edge of the quantile gap's band, nats, one value per level.
        confidence: confidence of interval and band.
        threshold: largest violation ratio that counts as almost dominance.
    """

    samples: int
    violation_ratio: float | None
    violation_ratio_ci: tuple[float, float] | None
    undefined_reason: str | None
    gap_low: Sequence[float]
    confidence: float
    threshold: float


def decide(evidence: Evidence) -> Decision:
    """Apply the rule of this module.

    Args:
        evidence: ratio, interval, band and sample size.

    Returns:
        The decision.

    Examples:
        >>> decide(
        ...     Evidence(
        ...         samples=50,
        ...         violation_ratio=0.01,
        ...         violation_ratio_ci=(0.0, 0.04),
        ...         undefined_reason=None,
        ...         gap_low=(-0.1, 0.2),
        ...         confidence=0.95,
        ...         threshold=0.25,
        ...     )
        ... )
        'almost_dominance'
    """
    if evidence.violation_ratio is None:
        return "undefined"
    interval = evidence.violation_ratio_ci
    if evidence.samples < FEWEST_SAMPLES or interval is None or interval[1] >= evidence.threshold:
        return "not_supported"
    return "dominance" if min(evidence.gap_low) > 0 else "almost_dominance"


def describe(evidence: Evidence, u: str, v: str, *, curve: str | None = None) -> str:
    """The decision in one sentence.

    Args:
        evidence: ratio, interval, band and sample size.
        u: name of the distribution that is to dominate, a plural such as "preferred rewards".
        v: name of the distribution to be dominated.
        curve: what is compared at each level, if not plain quantiles: "integrated quantiles".

    Returns:
        A sentence with the numbers that it rests on.
    """
    decision = decide(evidence)
    if decision == "undefined":
        return f"Dominance undefined: {evidence.undefined_reason}, so the violation ratio is 0/0."
    inside = "" if curve is None else f" in {curve}"
    ratio = f"violation ratio {format_ratio(evidence.violation_ratio)}"
    interval = f"{_percent(evidence.confidence)} interval {format_interval(evidence.violation_ratio_ci)}"
    if decision == "dominance":
        return (
            f"Dominance supported: {u} exceed {v}{inside} at every level from 1 % to 99 % "
            f"({_percent(evidence.confidence)} band), {ratio}, {interval}."
        )
    if decision == "almost_dominance":
        sure = sum(low > 0 for low in evidence.gap_low)
        return (
            f"Almost dominance: {ratio}, {interval}, below the threshold {evidence.threshold:g}; with "
            f"{_percent(evidence.confidence)} confidence {u} exceed {v}{inside} at {sure} of "
            f"{len(evidence.gap_low)} levels only."
        )
    return f"Dominance not supported: {ratio}, {interval}{_obstacle(evidence, u, v)}."


def _obstacle(evidence: Evidence, u: str, v: str) -> str:
    """What stands against dominance."""
    if evidence.samples < FEWEST_SAMPLES:
        return f"; {evidence.samples} samples on a side are too few to tell, {FEWEST_SAMPLES} are needed"
    interval = evidence.violation_ratio_ci
    if interval is not None and interval[0] > 1 - evidence.threshold:
        return f"; rather, {v} almost dominate {u}"
    return f", not wholly below the threshold {evidence.threshold:g}"


def format_ratio(value: float | None) -> str:
    """A share in [0, 1] with three decimals, or the word 'undefined'.

    Examples:
        >>> format_ratio(0.0312), format_ratio(0.0002), format_ratio(0.0), format_ratio(None)
        ('0.031', '<0.001', '0', 'undefined')
    """
    if value is None:
        return "undefined"
    if value == 0:
        return "0"
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"


def format_interval(interval: tuple[float, float] | None) -> str:
    """An interval of shares, `[low, high]`, or the word 'undefined'.

    Examples:
        >>> format_interval((0.0, 0.25))
        '[0, 0.250]'
    """
    if interval is None:
        return "undefined"
    return f"[{format_ratio(interval[0])}, {format_ratio(interval[1])}]"


def _percent(share: float) -> str:
    """A confidence in words: 0.95 becomes '95 %', 0.999 '99.9 %'."""
    return f"{100 * share:g} %"
