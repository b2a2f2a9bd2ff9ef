"""The certificate in tables: its numbers, further views of the same rows, slices of the data, and other runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from distal.evaluation import format_interval, format_ratio
from distal.report.page.certificates import Certificate, Comparison
from distal.report.page.reading import finite, pair
from distal.report.page.run import Run
from distal.report.page.views.parts import IntervalMark, Table, interval_marks
from distal.report.page.wording import percent, signed

__all__ = ["certificate_table", "part_tables"]

_MOST_EXTRA_COLUMNS = 9


def certificate_table(runs: Sequence[Run]) -> Table | None:
    """The numbers of all certificates: quantities down, certificates across."""
    shown = [(run, certificate) for run in runs for certificate in run.certificates]
    if not shown:
        return None
    names = [_certificate_name(run, certificate, len(runs) > 1) for run, certificate in shown]
    certificates = [certificate for _, certificate in shown]
    rows = [
        ("held-out rows", [certificate.held_out for certificate in certificates]),
        ("violation ratio (0: preferred dominate; 1: the others do)", [_ratio(c) for c in certificates]),
        ("share of levels violated", [_share(c.violated_share) for c in certificates]),
        ("mean gap, nats", [_nats(c) for c in certificates]),
        ("AUC: P(preferred > other)", [_estimate(c.auc, c.auc_ci) for c in certificates]),
        ("pairs ranked right", [_accuracy(c) for c in certificates]),
        ("test of the ratio", [_test(c.test) for c in certificates]),
        (
            "prompts resampled as wholes",
            ["" if c.clusters is None else f"{c.clusters:,}" for c in certificates],
        ),
        ("confidence of the intervals", [percent(c.confidence) for c in certificates]),
        ("formal verdict", [c.verdict for c in certificates]),
    ]
    return Table(
        caption="The certificates in numbers, with their bootstrap intervals",
        head=["", *names],
        rows=[[name, *values] for name, values in rows if any(values)],
    )


def _certificate_name(run: Run, certificate: Certificate, several: bool) -> str:
    where = certificate.file if len(run.certificates) > 1 else ""
    return " ".join(part for part in (run.name if several or not where else "", where) if part)


def _ratio(comparison: Comparison) -> str:
    if comparison.ratio is None:
        return "undefined"
    return f"{format_ratio(comparison.ratio)} {format_interval(comparison.ratio_ci)}"


def _share(value: float | None) -> str:
    return "" if value is None else format_ratio(value)


def _estimate(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def _difference(value: float | None, interval: tuple[float, float] | None) -> str:
    """A difference with its sign, and its interval."""
    bounds = "" if interval is None else f" [{signed(interval[0])}, {signed(interval[1])}]"
    return "" if value is None else signed(value) + bounds


def _nats(comparison: Comparison) -> str:
    return _difference(comparison.mean_gap, comparison.mean_gap_ci)


def _accuracy(certificate: Certificate) -> str:
    ties = f" ({certificate.tied_pairs:,} ties)" if certificate.tied_pairs else ""
    estimate = _estimate(certificate.accuracy, certificate.accuracy_ci)
    return estimate and estimate + ties


def _test(test: Mapping[str, Any]) -> str:
    """A test in words: p-value, null hypothesis, method."""
    p_value = finite(test.get("p_value"))
    if p_value is None:
        return ""
    method = str(test.get("method", "")).replace("_", " ")
    shown = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    return f"{shown} against: {test.get('null', 'no dominance')}" + (f" ({method})" if method else "")


def part_tables(run: Run) -> list[Table]:
    """What a certificate holds beside its first-order comparison."""
    certificate = run.certificate
    if certificate is None:
        return []
    extras = [(name, _records(value)) for name, value in certificate.extras.items()]
    tables = [_views_table(certificate), _slices_table(certificate), _runs_table(certificate)]
    return [
        *(table for table in tables if table is not None),
        *(_extra_table(name, rows) for name, rows in extras if rows),
    ]


def _views_table(certificate: Certificate) -> Table | None:
    """Second order, equal lengths, margins."""
    if not certificate.views:
        return None
    return Table(
        caption="The same rows, seen otherwise",
        head=("view", "violation ratio", "mean gap, nats", "verdict"),
        rows=[
            (name, _ratio(view), _nats(view), view.verdict or (view.decision or "").replace("_", " "))
            for name, view in certificate.views.items()
        ],
    )


def _slices_table(certificate: Certificate) -> Table | None:
    """Parts of the data, with their mean gaps on one scale."""
    if not certificate.slices:
        return None
    gaps = [(finite(part.get("mean_gap")), pair(part.get("mean_gap_ci"))) for part in certificate.slices]
    marks = interval_marks(gaps, reference=0.0)
    rows = [
        _slice_row(part, gap, mark) for part, gap, mark in zip(certificate.slices, gaps, marks, strict=True)
    ]
    return Table(
        caption="Parts of the data; p-values are corrected for the number of parts, intervals are not",
        head=("part", "preferred / other", "violation ratio", "mean gap", "", "adjusted p", "result"),
        rows=rows,
        numeric=frozenset((1, 2, 3, 5)),
    )


def _slice_row(
    part: Mapping[str, Any],
    gap: tuple[float | None, tuple[float, float] | None],
    mark: IntervalMark | None,
) -> list[str | IntervalMark | None]:
    adjusted = finite(part.get("p_adjusted"))
    named = " = ".join(str(part[key]) for key in ("attribute", "value") if key in part)
    return [
        named or str(part.get("name", "")),
        " / ".join(str(part[key]) for key in ("n_preferred", "n_other") if key in part),
        _part_ratio(part),
        _difference(*gap),
        mark,
        "" if adjusted is None else "<0.001" if adjusted < 0.001 else f"{adjusted:.3f}",
        {True: "dominates", False: "not shown"}.get(cast(bool, part.get("dominates")), ""),
    ]


def _part_ratio(part: Mapping[str, Any]) -> str:
    """The violation ratio of a part, or why there is none."""
    ratio = finite(part.get("violation_ratio"))
    if ratio is None:
        return str(part.get("status", "")).replace("_", " ")
    return f"{format_ratio(ratio)} {format_interval(pair(part.get('violation_ratio_ci')))}"


def _runs_table(certificate: Certificate) -> Table | None:
    """This run against others on the same rows."""
    if not certificate.comparisons:
        return None
    return Table(
        caption="Runs tested against each other on the same rows",
        head=("runs", "violation ratio", "difference of mean gaps, nats", "verdict"),
        rows=[
            (
                f"{one.get('run', '')} over {one.get('other', '')}",
                _part_ratio(one),
                _difference(finite(one.get("mean_gap_difference")), pair(one.get("mean_gap_difference_ci"))),
                str(one.get("verdict") or str(one.get("decision", "")).replace("_", " ")),
            )
            for one in certificate.comparisons
        ],
    )


def _records(value: object) -> list[Mapping[str, object]]:
    """Records with a name each, out of a list of records, a mapping of records, or a single record."""
    if isinstance(value, list):
        items = cast(list[object], value)
        return [cast(Mapping[str, object], item) for item in items if isinstance(item, Mapping)]
    if not isinstance(value, Mapping):
        return []
    held = cast(Mapping[str, Any], value)
    if held and all(isinstance(item, Mapping) for item in held.values()):
        return [{"": name, **cast(Mapping[str, object], item)} for name, item in held.items()]
    return [held]


def _extra_table(name: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """Any records as a table: what is not known here is at least shown."""
    flat = [
        {key: shown for key, value in row.items() if (shown := _shown(value)) is not None} for row in rows
    ]
    head = list(dict.fromkeys(key for row in flat for key in row))[:_MOST_EXTRA_COLUMNS]
    return Table(
        caption=name.replace("_", " ").capitalize(),
        head=[key.replace("_", " ") for key in head],
        rows=[[row.get(key) for key in head] for row in flat],
    )


def _shown(value: object) -> str | None:
    """A value as a cell; curves and other long things are none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else None
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and len(cast(list[object], value)) == 2:
        parts = [_shown(part) for part in cast(list[object], value)]
        return f"[{parts[0]}, {parts[1]}]" if None not in parts else None
    return None
