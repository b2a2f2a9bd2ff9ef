"""Configuration and versions, and where several runs differ in them."""

from __future__ import annotations

from collections.abc import Sequence

from distal.evaluation import format_interval, format_ratio
from distal.report.page.reading import finite, mapping
from distal.report.page.run import Run
from distal.report.page.views.parts import Missing, Table, flattened
from distal.report.page.wording import headline, signed

__all__ = [
    "config_missing",
    "config_table",
    "differences_table",
    "facts_table",
    "overview_table",
    "versions_table",
]


def config_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs whose options are not known."""
    return [
        Missing(
            run=run.name,
            what="There is no configuration",
            file="distal.yaml",
            command="distal align --config FILE",
        )
        for run in runs
        if not run.config
    ]


def config_table(run: Run) -> Table | None:
    """Every option of a run as it acted."""
    if not run.config:
        return None
    rows = [(name, _shown(value)) for name, value in flattened(run.config).items()]
    return Table(caption=f"Options of {run.name}", head=("option", "value"), rows=rows)


def facts_table(run: Run) -> Table | None:
    """How a run was started and how it ended."""
    names = (
        "state",
        "error",
        "command",
        "started",
        "resumed",
        "finished",
        "updated",
        "steps",
        "seconds",
        "seed",
    )
    rows = [(name, _shown(run.state[name])) for name in names if run.state.get(name) not in (None, "", [])]
    return Table(caption=f"Course of {run.name}", head=("", "value"), rows=rows) if rows else None


def versions_table(runs: Sequence[Run]) -> Table | None:
    """Versions that the runs were made with."""
    known = [(run, mapping(run.state.get("versions"))) for run in runs]
    known = [(run, versions) for run, versions in known if versions]
    if not known:
        return None
    names = list(dict.fromkeys(name for _, versions in known for name in versions))
    return Table(
        caption="Versions",
        head=["package", *(run.name for run, _ in known)],
        rows=[[name, *(_shown(versions.get(name, "")) for _, versions in known)] for name in names],
    )


def differences_table(runs: Sequence[Run]) -> Table | None:
    """Options in which runs differ; the output folder always does."""
    known = [(run, flattened(run.config)) for run in runs if run.config]
    if len(known) < 2:
        return None
    names = dict.fromkeys(name for _, options in known for name in options if name != "output_dir")
    rows = [
        [name, *values]
        for name in names
        if len(set(values := [_shown(options.get(name, "not set")) for _, options in known])) > 1
    ]
    head = ["option", *(run.name for run, _ in known)]
    return Table(caption="Options in which the runs differ", head=head, rows=rows)


def overview_table(runs: Sequence[Run]) -> Table:
    """The results of several runs, one row each."""
    rows: list[list[str]] = []
    for run in runs:
        certificate = run.certificate
        rate = run.win_rates[0].rate if run.win_rates else None
        rows.append(
            [
                run.name,
                run.objective or "",
                headline(certificate).title,
                "" if certificate is None else f"{format_ratio(certificate.ratio)}",
                "" if certificate is None else format_interval(certificate.ratio_ci),
                "" if certificate is None or certificate.mean_gap is None else signed(certificate.mean_gap),
                "" if certificate is None or certificate.auc is None else f"{certificate.auc:.3f}",
                "" if rate is None else f"{100 * rate:.1f} %",
                _steps(run),
            ]
        )
    head = [
        "run",
        "objective",
        "verdict",
        "violation ratio",
        "its interval",
        "mean gap",
        "AUC",
        "win rate",
        "steps",
    ]
    filled = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return Table(
        caption="Results of all runs; gaps in nats",
        head=[head[place] for place in filled],
        rows=[[row[place] for place in filled] for row in rows],
        numeric=frozenset(index for index, place in enumerate(filled) if place >= 3),
    )


def _steps(run: Run) -> str:
    steps = finite(run.state.get("steps"))
    if steps is not None:
        return f"{steps:,.0f}"
    return f"{run.health.last_step:,}" if run.health is not None else ""


def _shown(value: object) -> str:
    """A value of an option as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return str(value)
