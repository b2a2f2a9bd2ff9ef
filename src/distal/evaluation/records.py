"""What a dominance certificate holds, its words, and its JSON form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, cast

from distal.errors import DataError
from distal.evaluation.files import write_atomically
from distal.evaluation.verdict import FEWEST_SAMPLES, Decision, Evidence, decide, describe
from distal.types import DataKind

__all__ = ["SCHEMA", "DominanceCertificate", "LawComparison", "QuantileCurves"]

SCHEMA = "distal.dominance/1"
"""Name and version of the JSON form; the number rises when a key changes its meaning or goes away."""

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
        samples: size of the smaller side.
        violation_ratio: `int (Q_V - Q_U)_+^2 / int (Q_V - Q_U)^2` in [0, 1]; None where the laws coincide.
        violation_ratio_ci: bootstrap interval of the ratio; None where undefined.
        undefined_reason: why the ratio is undefined; None where it is not.
        violated_share: measure of the levels at which Q_U < Q_V, in [0, 1].
        mean_gap: mean of u minus mean of v, nats.
        mean_gap_ci: bootstrap interval of the mean gap, nats.
        curves: both quantile curves and the band of their gap.
        confidence: confidence of every interval and of the pointwise band.
        threshold: largest violation ratio that counts as almost dominance.
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
        return asdict(self) | {"decision": self.decision, "verdict": self.verdict}

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
        return (f"only {self.samples} samples on a side: below {FEWEST_SAMPLES}, intervals are too narrow",)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a `schema` version; what is undefined is None, never NaN."""
        margins = None if self.margins is None else self.margins.to_dict()
        words = {"decision": self.decision, "verdict": self.verdict, "notes": list(self.notes)}
        return {"schema": SCHEMA} | asdict(self) | {"margins": margins} | words

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The certificate that `to_dict` came from; verdict and notes follow from the numbers again.

        Args:
            content: what `to_dict` returned, possibly through JSON.

        Raises:
            DataError: another schema, or a missing key.
        """
        if content.get("schema") != SCHEMA:
            raise DataError(
                f"not a dominance certificate of this version: its schema is {content.get('schema')!r}, "
                f"expected {SCHEMA!r}; evaluate again to renew it"
            )
        try:
            margins = content["margins"]
            values = _field_values(cls, content)
            values["margins"] = (
                None if margins is None else LawComparison(**_field_values(LawComparison, margins))
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"the dominance certificate is incomplete: {error}; evaluate again to renew it"
            ) from error
        return cls(**values)

    def save(self, path: str | Path) -> Path:
        """Write the certificate as JSON, atomically.

        Args:
            path: file to write; parent folders are made.

        Returns:
            The path written.

        Raises:
            OutputError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        return write_atomically(path, (_NUMBER_LIST.sub(_on_one_line, text) + "\n").encode())

    def _names(self) -> tuple[str, str]:
        return "preferred rewards", "other rewards"


def _field_values(record: type[LawComparison], content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record from its JSON form: lists become tuples again."""
    values = {field.name: _frozen(content[field.name]) for field in fields(record)}
    curves = content["curves"]
    values["curves"] = QuantileCurves(
        **{field.name: tuple(curves[field.name]) for field in fields(QuantileCurves)}
    )
    return values


def _on_one_line(found: re.Match[str]) -> str:
    """A list of numbers without its line breaks, so that a certificate can be read at a glance."""
    return " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]")


def _frozen(value: object) -> object:
    """Lists as tuples, everything else unchanged."""
    return tuple(cast(list[object], value)) if isinstance(value, list) else value
