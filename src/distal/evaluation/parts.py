"""The parts of a certificate beside its first-order comparison: tests, second order, slices, lengths, other runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from distal.evaluation.verdict import Decision, Evidence, decide, describe

__all__ = [
    "LengthBalance",
    "RatioTest",
    "RunComparison",
    "SecondOrder",
    "Slice",
    "SliceStatus",
    "Slices",
]

Interval = tuple[float, float]

SliceStatus = Literal["tested", "too_small", "undefined"]

RunDecision = Literal["no_difference", "dominance", "almost_dominance", "not_supported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioTest:
    """A test whether the violation ratio is below a threshold.

    Attributes:
        null: the null hypothesis in words.
        p_value: one-sided.
        method: `asymptotic` (`distal.transport.dominance_test`), or, for weighted laws, `bootstrap_error`: its contrast
            over the bootstrap standard error; both against the normal law.
    """

    null: str
    p_value: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOrder:
    """How far the law of u dominates that of v to second order: in integrated quantiles.

    Attributes:
        samples: independent samples on the smaller side.
        violation_ratio: of order 2, in [0, 1]; None where the laws coincide.
        violation_ratio_ci: its interval; None where undefined.
        undefined_reason: why the ratio is undefined; None where it is not.
        gap: `int_0^t (Q_U - Q_V)` at each level of the curves, nats.
        gap_low: lower edge of its pointwise bootstrap band.
        gap_high: upper edge.
        test: whether the ratio is below the threshold; None where undefined.
        confidence: of interval and band.
        threshold: largest ratio that counts as almost dominance.
    """

    samples: int
    violation_ratio: float | None
    violation_ratio_ci: Interval | None
    undefined_reason: str | None
    gap: tuple[float, ...]
    gap_low: tuple[float, ...]
    gap_high: tuple[float, ...]
    test: RatioTest | None
    confidence: float
    threshold: float

    @property
    def decision(self) -> Decision:
        """What the rule of `distal.evaluation.verdict` decides, for integrated quantiles."""
        return decide(self._evidence())

    def verdict(self, u: str, v: str) -> str:
        """The decision in one sentence.

        Args:
            u: name of the distribution that is to dominate, a plural.
            v: name of the other.
        """
        return f"Second order: {describe(self._evidence(), u, v, curve='integrated quantiles')}"

    def _evidence(self) -> Evidence:
        return Evidence(
            samples=self.samples,
            violation_ratio=self.violation_ratio,
            violation_ratio_ci=self.violation_ratio_ci,
            undefined_reason=self.undefined_reason,
            gap_low=self.gap_low,
            confidence=self.confidence,
            threshold=self.threshold,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBalance:
    """What giving both sides one distribution of lengths did.

    Attributes:
        strata: number of strata of equal or neighbouring lengths that both sides have.
        mean_preferred: mean length of preferred completions as they are, tokens.
        mean_other: mean length of the others.
        weighted_preferred: mean length of preferred completions after weighting.
        weighted_other: mean length of the others after weighting; what still differs is not controlled.
        left_out_preferred: share of preferred completions of lengths that the others do not reach; they do not count.
        left_out_other: the same for the others.
        effective_preferred: samples that the weighted preferred ones are worth, `1 / sum of squared weights`.
        effective_other: the same for the others.
    """

    strata: int
    mean_preferred: float
    mean_other: float
    weighted_preferred: float
    weighted_other: float
    left_out_preferred: float
    left_out_other: float
    effective_preferred: float
    effective_other: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Dominance within one part of the data.

    Attributes:
        attribute: what the data was cut by.
        value: the value, or the bin such as `12-40`.
        n_preferred: preferred responses in it.
        n_other: other responses.
        samples: independent samples (prompts, where several share one) on the smaller side.
        status: `tested`; `too_small`: fewer than 20 samples, not tested; `undefined`: its laws coincide.
        violation_ratio: of first order; None where not tested or undefined.
        violation_ratio_ci: its interval, not corrected for the number of slices.
        mean_gap: difference of means, nats; None where a side holds nothing.
        mean_gap_ci: its interval; None where not tested.
        p_value: of the null that the ratio is at least the threshold: the larger of the asymptotic test's and of the
            least level at which the interval lies below the threshold; None where not tested.
        p_adjusted: the same after Holm's correction over all tested slices.
        dominates: whether `p_adjusted` is at most `1 - confidence`; None where not tested.
    """

    attribute: str
    value: str
    n_preferred: int
    n_other: int
    samples: int
    status: SliceStatus
    violation_ratio: float | None = None
    violation_ratio_ci: Interval | None = None
    mean_gap: float | None = None
    mean_gap_ci: Interval | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    dominates: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """All slices, and how their tests were corrected.

    Attributes:
        slices: by attribute, then by value.
        correction: `holm`: over all tested slices of all attributes together.
        level: aimed-at probability of a single false "dominates" among them.
        tested: number of tested slices.
        threshold: largest violation ratio that counts as almost dominance.
    """

    slices: tuple[Slice, ...]
    correction: str
    level: float
    tested: int
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Whether the gaps of one run dominate those of another, on the same rows.

    Attributes:
        run: name of the run that is to dominate.
        other: name of the run to be dominated.
        gap: `pair_margins`: reward of chosen minus that of rejected, pair by pair; `quantile_gaps`: quantile gap at
            every level, for unpaired data.
        samples: independent samples.
        decision: `no_difference`: the two gap laws coincide to rounding, and nothing is tested.
        verdict: the decision in one sentence.
        violation_ratio: of first order; None where there is no difference.
        violation_ratio_ci: its interval.
        mean_gap_difference: mean gap of the run minus that of the other, nats.
        mean_gap_difference_ci: its interval.
        p_value: of the null that the ratio is at least the threshold (absolute test); None where not tested.
        p_adjusted: the same after Holm's correction over all ordered pairs of runs.
        p_relative: of the null that the ratio is at least 1/2: that the other run is as near to dominating as this
            one (relative test); None where not tested.
        p_relative_adjusted: the same after Holm's correction.
        threshold: largest violation ratio that counts as almost dominance.
        confidence: of the intervals; tests are at level 1 - confidence.
    """

    run: str
    other: str
    gap: Literal["pair_margins", "quantile_gaps"]
    samples: int
    decision: RunDecision
    verdict: str
    violation_ratio: float | None
    violation_ratio_ci: Interval | None
    mean_gap_difference: float
    mean_gap_difference_ci: Interval
    p_value: float | None
    p_adjusted: float | None
    p_relative: float | None
    p_relative_adjusted: float | None
    threshold: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
