"""Reward quantiles and their gap, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from distal.evaluation import format_interval, format_ratio
from distal.report.page.certificates import Certificate, Comparison, Curves
from distal.report.page.run import Run
from distal.report.page.views.parts import Curve, Missing, Plot, Table
from distal.report.page.wording import percent, signed

__all__ = ["certificate_table", "extra_tables", "gap_plot", "quantile_plots", "rewards_missing", "run_role"]

_MOST_EXTRA_COLUMNS = 9


def run_role(index: int) -> str:
    """The colour of a run, by its place on the page."""
    return f"run-{index % 6}"


def rewards_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs without a certificate."""
    return [
        Missing(
            run=run.name,
            what="There is no dominance certificate",
            file="evaluation/dominance.json",
            command=f"distal evaluate dominance --model {run.folder} --reference BASE --data HELD-OUT "
            f"--output {run.folder / 'evaluation'}",
        )
        for run in runs
        if run.certificate is None
    ]


def quantile_plots(runs: Sequence[Run]) -> list[Plot]:
    """Both quantile functions of each run, on equal axes."""
    drawn = [(run, run.certificate, run.certificate.curves) for run in runs if run.certificate is not None]
    shown = [(run, certificate, curves) for run, certificate, curves in drawn if curves is not None]
    values = [value for _, _, curves in shown for value in (*curves.u, *curves.v)]
    air = 0.05 * (max(values, default=0) - min(values, default=0))
    limits = (min(values) - air, max(values) + air) if len(shown) > 1 else None
    return [
        Plot(
            id=f"quantiles-{index}",
            title="Reward quantiles" if len(runs) == 1 else run.name,
            x_title="quantile level",
            y_title="reward (nats)",
            curves=(
                Curve(name="preferred", role="preferred", x=curves.levels, y=curves.u),
                Curve(name="other", role="other", x=curves.levels, y=curves.v, dash=True),
            ),
            description=_quantile_words(run, certificate, curves),
            table=_quantile_table(run, curves),
            levels=True,
            y_range=limits,
        )
        for index, (run, certificate, curves) in enumerate(shown)
    ]


def gap_plot(runs: Sequence[Run]) -> Plot | None:
    """The quantile gaps of all runs, with their bands."""
    shown = [
        (index, run, run.certificate.curves)
        for index, run in enumerate(runs)
        if run.certificate is not None and run.certificate.curves is not None
    ]
    if not shown:
        return None
    several = len(runs) > 1
    curves = [
        Curve(
            name=run.name if several else "gap",
            role=run_role(index) if several else "ink",
            x=curve.levels,
            y=curve.gap,
            low=curve.low,
            high=curve.high,
        )
        for index, run, curve in shown
    ]
    first = shown[0][1].certificate
    confidence = 0.95 if first is None else first.confidence
    return Plot(
        id="gap",
        title="Quantile gaps of all runs" if several else "Quantile gap",
        x_title="quantile level",
        y_title="preferred minus other (nats)",
        curves=curves,
        description="; ".join(_gap_words(run, curve, several) for _, run, curve in shown)
        + f". Shaded: pointwise {percent(confidence)} bootstrap bands. Below zero, dominance is violated.",
        table=_gap_table(shown),
        levels=True,
        shade_below_zero=not several,
        wide=several,
    )


def _quantile_words(run: Run, certificate: Certificate, curves: Curves) -> str:
    middle = min(range(len(curves.levels)), key=lambda index: abs(curves.levels[index] - 0.5))
    return (
        f"Rewards of {certificate.held_out} in {run.name}, sorted. Half-way, the preferred reward is "
        f"{signed(curves.u[middle])} nats and the other {signed(curves.v[middle])} nats."
    )


def _gap_words(run: Run, curves: Curves, several: bool) -> str:
    gap = curves.gap
    beginning = f"{run.name}: the" if several else "The"
    below = sum(value < 0 for value in gap)
    return (
        f"{beginning} gap runs from {signed(min(gap))} to {signed(max(gap))} nats, is negative at {below} of "
        f"{len(gap)} levels, and its band lies above zero at {curves.levels_above}"
    )


def _quantile_table(run: Run, curves: Curves) -> Table:
    return Table(
        caption=f"Reward quantiles of {run.name}, nats",
        head=("level", "preferred", "other"),
        rows=[
            (f"{100 * level:g} %", signed(u), signed(v))
            for level, u, v in zip(curves.levels, curves.u, curves.v, strict=True)
        ],
        numeric=frozenset((0, 1, 2)),
    )


def _gap_table(shown: Sequence[tuple[int, Run, Curves]]) -> Table:
    """Levels down, runs across; runs may know different levels."""
    levels = sorted({level for _, _, curves in shown for level in curves.levels})
    known = [
        {
            level: (gap, low, high)
            for level, gap, low, high in zip(curves.levels, curves.gap, curves.low, curves.high, strict=True)
        }
        for _, _, curves in shown
    ]
    head = ["level"]
    for _, run, _ in shown:
        head += [f"{run.name}: gap", "band from", "to"] if len(shown) > 1 else ["gap", "band from", "to"]
    rows: list[list[str | None]] = []
    for level in levels:
        cells: list[str | None] = [f"{100 * level:g} %"]
        for run in known:
            cells += [signed(value) for value in run[level]] if level in run else [None, None, None]
        rows.append(cells)
    return Table(
        caption="Quantile gap and its band, nats", head=head, rows=rows, numeric=frozenset(range(len(head)))
    )


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
        (
            "margins, policy against reference: violation ratio",
            ["" if c.margins is None else _ratio(c.margins) for c in certificates],
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


def _nats(comparison: Comparison) -> str:
    if comparison.mean_gap is None:
        return ""
    interval = comparison.mean_gap_ci
    bounds = "" if interval is None else f" [{signed(interval[0])}, {signed(interval[1])}]"
    return signed(comparison.mean_gap) + bounds


def _accuracy(certificate: Certificate) -> str:
    ties = f" ({certificate.tied_pairs:,} ties)" if certificate.tied_pairs else ""
    estimate = _estimate(certificate.accuracy, certificate.accuracy_ci)
    return estimate and estimate + ties


def extra_tables(run: Run) -> list[Table]:
    """What later versions of the file add, such as slices of the data: any records become a table."""
    certificate = run.certificate
    if certificate is None:
        return []
    found = [(name, _records(value)) for name, value in certificate.extras.items()]
    return [_extra_table(name, rows) for name, rows in found if rows]


def _records(value: object) -> list[Mapping[str, object]]:
    """Records with a name each, out of a list of records, a mapping of records, or a single record."""
    if isinstance(value, list):
        return [
            cast(Mapping[str, object], item)
            for item in cast(list[object], value)
            if isinstance(item, Mapping)
        ]
    if not isinstance(value, Mapping):
        return []
    held = cast(Mapping[str, Any], value)
    if held and all(isinstance(item, Mapping) for item in held.values()):
        return [{"": name, **cast(Mapping[str, object], item)} for name, item in held.items()]
    return [held]


def _extra_table(name: str, rows: Sequence[Mapping[str, object]]) -> Table:
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
