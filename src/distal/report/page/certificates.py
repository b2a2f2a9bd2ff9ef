"""Certificates as the page reads them: any version of their file, as far as it is understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from distal.evaluation import FEWEST_SAMPLES, Decision
from distal.report.page.reading import FolderReader, finite, mapping, pair, text

__all__ = ["Certificate", "Comparison", "Curves", "read_certificates"]

_FAMILY = "distal.dominance/"
_UNDERSTOOD = ("1", "2")
_FILES = ("evaluation/dominance.json", "dominance.json")
_OWN = """
schema kind n_preferred n_other samples violation_ratio violation_ratio_ci undefined_reason violated_share mean_gap
mean_gap_ci curves confidence threshold auc auc_ci accuracy accuracy_ci tied_pairs margins resamples seed decision
verdict notes
"""
"""Keys that have a place of their own on the page."""

Interval = tuple[float, float]
Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Quantiles of two samples and the band of their gap, each of shape (levels,), nats."""

    levels: Numbers
    u: Numbers
    v: Numbers
    low: Numbers
    high: Numbers

    @property
    def gap(self) -> Numbers:
        """Quantile gap, nats; negative where dominance is violated."""
        return tuple(a - b for a, b in zip(self.u, self.v, strict=True))

    @property
    def levels_above(self) -> int:
        """Levels at which the whole band lies above zero."""
        return sum(low > 0 for low in self.low)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far one law dominates another, as a file states it; None where it states nothing usable."""

    samples: int | None
    ratio: float | None
    ratio_ci: Interval | None
    violated_share: float | None
    mean_gap: float | None
    mean_gap_ci: Interval | None
    undefined_reason: str | None
    confidence: float
    threshold: float
    curves: Curves | None
    decision: Decision | None
    verdict: str

    @property
    def too_few(self) -> bool:
        """Whether a side holds too few samples for any statement."""
        return self.samples is not None and self.samples < FEWEST_SAMPLES

    @property
    def reversed(self) -> bool:
        """Whether rather the other law dominates almost."""
        return self.ratio_ci is not None and self.ratio_ci[0] > 1 - self.threshold


@dataclass(frozen=True, kw_only=True)
class Certificate(Comparison):
    """A certificate of held-out rewards.

    Attributes:
        file: that it stands in, within the run folder.
        extras: what later versions of the file hold beside what is named here.
    """

    file: str
    paired: bool
    n_preferred: int | None
    n_other: int | None
    auc: float | None
    auc_ci: Interval | None
    accuracy: float | None
    accuracy_ci: Interval | None
    tied_pairs: int | None
    notes: tuple[str, ...]
    margins: Comparison | None
    extras: Mapping[str, Any]

    @property
    def held_out(self) -> str:
        """The held-out rows in words."""
        if self.n_preferred is None or self.n_other is None:
            return "held-out rows"
        if self.paired:
            return f"{self.n_preferred:,} held-out pairs"
        return f"{self.n_preferred:,} preferred and {self.n_other:,} other held-out responses"


def read_certificates(reader: FolderReader) -> tuple[Certificate, ...]:
    """The certificates of a run, the one made last for it first."""
    found = (_read(reader, path) for path in reader.files(*_FILES))
    return tuple(certificate for certificate in found if certificate is not None)


def _read(reader: FolderReader, path: Path) -> Certificate | None:
    content = reader.json(path)
    if content is None:
        return None
    held = mapping(content)
    schema = text(held.get("schema")) or ""
    if not schema.startswith(_FAMILY):
        reader.complain(path, f"is no dominance certificate: its schema is {held.get('schema')!r}")
        return None
    if schema.removeprefix(_FAMILY) not in _UNDERSTOOD:
        reader.complain(
            path, f"has schema {schema}, which is newer than this page; it shows what it understands"
        )
    common = _comparison(held)
    if common["curves"] is None:
        reader.complain(path, "holds no quantile curves that could be drawn")
    return Certificate(
        **common,
        file=reader.name(path),
        paired=held.get("kind") == "paired",
        n_preferred=_count(held.get("n_preferred")),
        n_other=_count(held.get("n_other")),
        auc=finite(held.get("auc")),
        auc_ci=pair(held.get("auc_ci")),
        accuracy=finite(held.get("accuracy")),
        accuracy_ci=pair(held.get("accuracy_ci")),
        tied_pairs=_count(held.get("tied_pairs")),
        notes=tuple(str(note) for note in _list(held.get("notes"))),
        margins=Comparison(**_comparison(mapping(held["margins"]))) if held.get("margins") else None,
        extras={
            key: value
            for key, value in held.items()
            if key not in _OWN.split() and value not in (None, [], {})
        },
    )


def _comparison(held: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a comparison."""
    decision = held.get("decision")
    confidence, threshold = finite(held.get("confidence")), finite(held.get("threshold"))
    return {
        "samples": _count(held.get("samples")),
        "ratio": finite(held.get("violation_ratio")),
        "ratio_ci": pair(held.get("violation_ratio_ci")),
        "violated_share": finite(held.get("violated_share")),
        "mean_gap": finite(held.get("mean_gap")),
        "mean_gap_ci": pair(held.get("mean_gap_ci")),
        "undefined_reason": text(held.get("undefined_reason")),
        "confidence": 0.95 if confidence is None else confidence,
        "threshold": 0.25 if threshold is None else threshold,
        "curves": _curves(mapping(held.get("curves"))),
        "decision": cast(Decision, decision) if decision in get_args(Decision) else None,
        "verdict": text(held.get("verdict")) or "",
    }


def _curves(held: Mapping[str, Any]) -> Curves | None:
    """Curves of one length, without the levels at which anything is not finite; None where nothing is left."""
    names = ("levels", "u", "v", "gap_low", "gap_high")
    columns = [_list(held.get(name)) for name in names]
    if len({len(column) for column in columns}) != 1:
        return None
    rows = [[finite(value) for value in row] for row in zip(*columns, strict=True)]
    whole = [cast(list[float], row) for row in rows if None not in row]
    if not whole:
        return None
    levels, u, v, low, high = (tuple(column) for column in zip(*whole, strict=True))
    return Curves(levels=levels, u=u, v=v, low=low, high=high)


def _count(value: object) -> int | None:
    number = finite(value)
    return None if number is None or number < 0 else int(number)


def _list(value: object) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []
