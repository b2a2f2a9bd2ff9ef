"""Certificates as the page reads them: any version of their file, as far as it is understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from distal.evaluation import FEWEST_SAMPLES, Decision
from distal.report.page.reading import FolderReader, finite, mapping, pair, records, text

__all__ = ["Certificate", "Comparison", "Curves", "read_certificates"]

_FAMILY, _SET_FAMILY = "distal.dominance/", "distal.dominance-set/"
_UNDERSTOOD = ("1", "2")
_FILES = ("evaluation/dominance.json", "dominance.json")
_OWN = """
schema kind n_preferred n_other samples violation_ratio violation_ratio_ci undefined_reason violated_share mean_gap
mean_gap_ci curves confidence threshold auc auc_ci accuracy accuracy_ci tied_pairs margins resamples seed decision
verdict notes test second_order length_controlled slices comparisons clusters intervals_reliable
"""
"""Keys that have a place of their own on the page."""

_VIEWS = {
    "second_order": "second order: integrated quantiles",
    "length_controlled": "at equal lengths",
    "margins": "margins of the policy against those of the reference",
}
"""Further comparisons that a certificate may hold, and what the page calls them."""

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
        clusters: prompts that were resampled as wholes, where rows share them.
        test: of the violation ratio: null hypothesis, p-value and method.
        views: further comparisons of the same rows, by what the page calls them.
        slices: parts of the data, one record each.
        comparisons: of this run with others on the same rows, one record each.
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
    clusters: int | None
    test: Mapping[str, Any]
    views: Mapping[str, Comparison]
    slices: tuple[Mapping[str, Any], ...]
    comparisons: tuple[Mapping[str, Any], ...]
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
    return tuple(certificate for path in reader.files(*_FILES) for certificate in _read(reader, path))


def _read(reader: FolderReader, path: Path) -> list[Certificate]:
    """The certificate that a file holds, or the several of a set."""
    content = reader.json(path)
    if content is None:
        return []
    held = mapping(content)
    schema = text(held.get("schema")) or ""
    comparisons = tuple(records(held.get("comparisons")))
    if schema.startswith(_SET_FAMILY):
        named = mapping(held.get("certificates"))
        own = reader.folder.resolve().name
        return [
            _certificate(reader, path, f"{reader.name(path)}: {name}", mapping(one), comparisons)
            for name, one in sorted(named.items(), key=lambda item: item[0] != own)
        ]
    if not schema.startswith(_FAMILY):
        reader.complain(path, f"is no dominance certificate: its schema is {held.get('schema')!r}")
        return []
    if schema.removeprefix(_FAMILY) not in _UNDERSTOOD:
        reader.complain(
            path, f"has schema {schema}, which is newer than this page; it shows what it understands"
        )
    return [_certificate(reader, path, reader.name(path), held, comparisons)]


def _certificate(
    reader: FolderReader,
    path: Path,
    name: str,
    held: Mapping[str, Any],
    comparisons: tuple[Mapping[str, Any], ...],
) -> Certificate:
    common = _comparison(held)
    if common["curves"] is None:
        reader.complain(path, "holds no quantile curves that could be drawn")
    slices = held.get("slices")
    return Certificate(
        **common,
        file=name,
        paired=held.get("kind") == "paired",
        n_preferred=_count(held.get("n_preferred")),
        n_other=_count(held.get("n_other")),
        auc=finite(held.get("auc")),
        auc_ci=pair(held.get("auc_ci")),
        accuracy=finite(held.get("accuracy")),
        accuracy_ci=pair(held.get("accuracy_ci")),
        tied_pairs=_count(held.get("tied_pairs")),
        notes=tuple(str(note) for note in _list(held.get("notes"))),
        clusters=_count(held.get("clusters")),
        test=mapping(held.get("test")),
        views={
            words: Comparison(**_comparison(mapping(held[key])))
            for key, words in _VIEWS.items()
            if mapping(held.get(key))
        },
        slices=tuple(records(mapping(slices).get("slices") if isinstance(slices, Mapping) else slices)),
        comparisons=comparisons,
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
