"""What a dominance certificate holds, its words, and its JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from distal.errors import DataError
from distal.evaluation.files import write_atomically
from distal.evaluation.parts import LengthBalance, RatioTest, RunComparison, SecondOrder, Slices
from distal.evaluation.verdict import FEWEST_SAMPLES, Decision, Evidence, decide, describe
from distal.types import DataKind

__all__ = [
    "SCHEMA",
    "SET_SCHEMA",
    "CertificateSet",
    "DominanceCertificate",
    "LawComparison",
    "LengthControl",
    "QuantileCurves",
    "json_text",
]

SCHEMA = "distal.dominance/2"
"""Name and version of the JSON form; the number rises when a key changes its meaning or goes away."""

READABLE = (SCHEMA, "distal.dominance/1")
"""Versions that can be read: the first lacks tests, second order, clusters, lengths and slices."""

SET_SCHEMA = "distal.dominance-set/1"
"""The JSON form of several certificates of one data set, with comparisons between them."""

Interval = tuple[float, float]

_NUMBER_LIST = re.compile(r"\[[^\[\]{}\"]*\]")
"""A JSON list of numbers: no strings, no nesting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileCurves:
    """Quantiles of two samples and the band of their gap, all of shape (levels,), in nats.

    Attributes:
        levels: levels t, ascending, in (0, 1).
        u: quantiles Q_U(t) of the sample that is to dominate.
        v: quantiles Q_V(t) of the other.
        gap_low: lower edge of the pointwise bootstrap band of Q_U(t) - Q_V(t).
        gap_high: upper edge.
    """

    levels: tuple[float, ...]
    u: tuple[float, ...]
    v: tuple[float, ...]
    gap_low: tuple[float, ...]
    gap_high: tuple[float, ...]

    @property
    def gap(self) -> tuple[float, ...]:
        """Quantile gap Q_U(t) - Q_V(t), nats; dominance is violated where it is negative."""
        return tuple(a - b for a, b in zip(self.u, self.v, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class LawComparison:
    """How far the law of u dominates that of v, to first order.

    Attributes:
        samples: independent samples on the smaller side: its size, or its number of prompts where several rows
            share one, or what its weighted samples are worth.
        violation_ratio: `int (Q_V - Q_U)_+^2 / int (Q_V - Q_U)^2` in [0, 1]; None where the laws coincide.
        violation_ratio_ci: bootstrap interval of the ratio; None where undefined.
        undefined_reason: why the ratio is undefined; None where it is not.
        violated_share: measure of the levels at which Q_U < Q_V, in [0, 1].
        mean_gap: mean of u minus mean of v, nats.
        mean_gap_ci: bootstrap interval of the mean gap, nats.
        curves: both quantile curves and the band of their gap.
        confidence: confidence of every interval and of the pointwise band.
        threshold: largest violation ratio that counts as almost dominance.
        test: whether the ratio is below the threshold; None where undefined.
        second_order: the same questions of integrated quantiles; None where they were not asked.
    """

    samples: int
    violation_ratio: float | None
    violation_ratio_ci: Interval | None
    undefined_reason: str | None
    violated_share: float
    mean_gap: float
    mean_gap_ci: Interval
    curves: QuantileCurves
    confidence: float
    threshold: float
    test: RatioTest | None = None
    second_order: SecondOrder | None = None

    @property
    def decision(self) -> Decision:
        """What the rule of `distal.evaluation.verdict` decides."""
        return decide(self._evidence())

    @property
    def verdict(self) -> str:
        """The decision in one sentence, with the numbers that it rests on."""
        return describe(self._evidence(), *self._names())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        return asdict(self) | self._words()

    def _words(self) -> dict[str, Any]:
        """What follows from the numbers: decisions, sentences, and whether the intervals can be believed."""
        words: dict[str, Any] = {
            "decision": self.decision,
            "verdict": self.verdict,
            "intervals_reliable": self.samples >= FEWEST_SAMPLES,
        }
        second = self.second_order
        if second is not None:
            said = {"decision": second.decision, "verdict": second.verdict(*self._names())}
            words["second_order"] = asdict(second) | said
        return words

    def _names(self) -> tuple[str, str]:
        return "policy margins", "reference margins"

    def _evidence(self) -> Evidence:
        return Evidence(
            samples=self.samples,
            violation_ratio=self.violation_ratio,
            violation_ratio_ci=self.violation_ratio_ci,
            undefined_reason=self.undefined_reason,
            gap_low=self.curves.gap_low,
            confidence=self.confidence,
            threshold=self.threshold,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControl(LawComparison):
    """The comparison of preferred and other rewards at equal lengths; see `distal.evaluation.lengths`.

    Attributes:
        auc: P(reward of preferred > reward of other) of the weighted laws, ties counting half.
        auc_ci: bootstrap interval of the former.
        balance: the strata, and mean lengths before and after.
    """

    auc: float
    auc_ci: Interval
    balance: LengthBalance

    def _names(self) -> tuple[str, str]:
        return "preferred rewards at equal lengths", "other rewards"


@dataclass(frozen=True, slots=True, kw_only=True)
class DominanceCertificate(LawComparison):
    """The statement whether held-out rewards of preferred responses (u) dominate those of the others (v).

    Attributes:
        kind: `paired` or `unpaired`.
        n_preferred: number of preferred responses.
        n_other: number of other responses.
        auc: P(reward of preferred > reward of other), ties counting half.
        auc_ci: bootstrap interval of the former.
        accuracy: share of pairs ranked right, ties counting half; None when unpaired.
        accuracy_ci: bootstrap interval of the former; None when unpaired.
        tied_pairs: number of pairs with equal rewards; None when unpaired.
        margins: the paired view, policy margins against reference margins; None where they were not given.
        resamples: bootstrap resamples.
        seed: seed of the resamples.
        clusters: prompts that were resampled as wholes; None where no two rows (or pairs) share one.
        length_controlled: the comparison at equal lengths; None where it was not asked for.
        slices: the parts of the data; None where there are none.
    """

    kind: DataKind
    n_preferred: int
    n_other: int
    auc: float
    auc_ci: Interval
    accuracy: float | None
    accuracy_ci: Interval | None
    tied_pairs: int | None
    margins: LawComparison | None
    resamples: int
    seed: int
    clusters: int | None = None
    length_controlled: LengthControl | None = None
    slices: Slices | None = None

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels of the quantile curves."""
        return self.curves.levels

    @property
    def preferred_quantiles(self) -> tuple[float, ...]:
        """Quantiles of the preferred rewards, nats."""
        return self.curves.u

    @property
    def other_quantiles(self) -> tuple[float, ...]:
        """Quantiles of the other rewards, nats."""
        return self.curves.v

    @property
    def notes(self) -> tuple[str, ...]:
        """Cautions about how far the numbers can be trusted."""
        if self.samples >= FEWEST_SAMPLES:
            return ()
        what = "prompts" if self.samples < min(self.n_preferred, self.n_other) else "samples"
        return (f"only {self.samples} {what} on a side: below {FEWEST_SAMPLES}, intervals are too narrow",)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a `schema` version; what is undefined is None, never NaN."""
        views = {
            "margins": None if self.margins is None else self.margins.to_dict(),
            "length_controlled": None if self.length_controlled is None else self.length_controlled.to_dict(),
        }
        return {"schema": SCHEMA} | asdict(self) | views | self._words() | {"notes": list(self.notes)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The certificate that `to_dict` came from; verdict and notes follow from the numbers again.

        Args:
            content: what `to_dict` returned, possibly through JSON, in this version or an earlier one.

        Raises:
            DataError: another schema, or a key that is missing or of the wrong type.
        """
        if content.get("schema") not in READABLE:
            raise DataError(
                f"not a dominance certificate of a known version: its schema is {content.get('schema')!r}, "
                f"expected {SCHEMA!r}; evaluate again to renew it"
            )
        try:
            return _adapter(cls).validate_python(dict(content))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            what = repr(place) if first["type"] == "missing" else f"{place}: {first['msg']}"
            raise DataError(
                f"the dominance certificate is incomplete: {what}; evaluate again to renew it"
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write the certificate as JSON, atomically.

        Args:
            path: file to write; parent folders are made.

        Returns:
            The path written.

        Raises:
            OutputError: the file cannot be written.
        """
        return write_atomically(path, json_text(self.to_dict()).encode())

    def _names(self) -> tuple[str, str]:
        return "preferred rewards", "other rewards"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSet:
    """Certificates of several runs on the same rows.

    Attributes:
        certificates: name of the run -> its certificate.
        comparisons: every run against every other, in both directions; empty where that was not asked for.
    """

    certificates: Mapping[str, DominanceCertificate]
    comparisons: tuple[RunComparison, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a `schema` version."""
        return {
            "schema": SET_SCHEMA,
            "certificates": {name: one.to_dict() for name, one in self.certificates.items()},
            "comparisons": [one.to_dict() for one in self.comparisons],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The set that `to_dict` came from.

        Raises:
            DataError: another schema, or a key that is missing or of the wrong type.
        """
        if content.get("schema") != SET_SCHEMA:
            raise DataError(
                f"not a set of dominance certificates: its schema is {content.get('schema')!r}, expected "
                f"{SET_SCHEMA!r}"
            )
        try:
            comparisons = _adapter(tuple[RunComparison, ...]).validate_python(content["comparisons"])
            named = dict(content["certificates"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the set of dominance certificates is incomplete: {error}") from error
        return cls(
            certificates={name: DominanceCertificate.from_dict(one) for name, one in named.items()},
            comparisons=comparisons,
        )

    def save(self, path: str | Path) -> Path:
        """Write the set as JSON, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        return write_atomically(path, json_text(self.to_dict()).encode())


def json_text(content: Mapping[str, Any]) -> str:
    """A record as JSON whose lists of numbers stand on one line each."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    return _NUMBER_LIST.sub(_on_one_line, text) + "\n"


@cache
def _adapter(record: Any) -> TypeAdapter[Any]:
    return TypeAdapter(record)


def _on_one_line(found: re.Match[str]) -> str:
    """A list of numbers without its line breaks, so that a certificate can be read at a glance."""
    return " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]")
