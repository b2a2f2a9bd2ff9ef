"""Training curves and health, of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distal.report.page.reading import finite, pair
from distal.report.page.run import Run
from distal.report.page.training import Series
from distal.report.page.views.parts import Curve, Missing, Plot, Table, thinned
from distal.report.page.views.rewards import run_role

__all__ = [
    "health_missing",
    "health_tables",
    "health_words",
    "training_missing",
    "training_notes",
    "training_plots",
]

_TABLE_ROWS = 24


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """Metrics that share a pair of axes.

    Attributes:
        metrics: name, label and role of each.
        certified: what evaluations on the way call the same quantity, which they know with its interval.
    """

    id: str
    title: str
    y_title: str
    metrics: tuple[tuple[str, str, str], ...]
    certified: str | None = None


_PANELS = (
    _Panel(id="loss", title="Loss", y_title="loss", metrics=(("loss", "training", "ink"),)),
    _Panel(
        id="rewards",
        title="Mean rewards",
        y_title="reward (nats)",
        metrics=(("rewards/chosen", "preferred", "preferred"), ("rewards/rejected", "other", "other")),
    ),
    _Panel(
        id="margins",
        title="Mean gap",
        y_title="preferred minus other (nats)",
        metrics=(("rewards/margins", "training", "ink"),),
        certified="mean_gap",
    ),
    _Panel(
        id="violation",
        title="Violation ratio",
        y_title="violation ratio",
        metrics=(("dominance/violation_ratio", "training", "ink"),),
        certified="violation_ratio",
    ),
    _Panel(
        id="auc",
        title="AUC",
        y_title="P(preferred > other)",
        metrics=(("dominance/auc", "training", "ink"),),
        certified="auc",
    ),
    _Panel(
        id="learning-rate",
        title="Learning rate",
        y_title="learning rate",
        metrics=(("learning_rate", "learning rate", "ink"),),
    ),
    _Panel(
        id="gradient",
        title="Gradient norm",
        y_title="norm before clipping",
        metrics=(("grad_norm", "gradient norm", "ink"),),
    ),
)


def training_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs without curves."""
    return [
        Missing(
            run=run.name,
            what="There are no training curves: neither a checkpoint nor TensorBoard logs",
            file="runs/",
            command="distal align ... --report-to tensorboard",
        )
        for run in runs
        if run.training is None and not run.evaluated
    ]


def training_plots(runs: Sequence[Run]) -> list[Plot]:
    """A plot for each panel of which any run has a metric."""
    plots = (_plot(panel, runs) for panel in _PANELS)
    return [plot for plot in plots if plot is not None]


def _plot(panel: _Panel, runs: Sequence[Run]) -> Plot | None:
    curves = [
        curve for index, run in enumerate(runs) for curve in _curves(panel, run, index, several=len(runs) > 1)
    ]
    if not curves:
        return None
    return Plot(
        id=f"training-{panel.id}",
        title=panel.title,
        x_title="optimizer step",
        y_title=panel.y_title,
        curves=curves,
        description=_words(panel, curves),
        table=_table(panel, curves),
    )


def _curves(panel: _Panel, run: Run, index: int, *, several: bool) -> list[Curve]:
    """The curves of one run in a panel; held-out ones with their band where evaluations kept it."""
    found: list[Curve] = []
    certified = None if panel.certified is None else _certified(run, panel.certified)
    known = {} if run.training is None else run.training.series
    for metric, label, role in panel.metrics:
        colour = run_role(index) if several else role
        if (series := known.get(metric)) is not None:
            found.append(_curve(series, _label(run, panel, label, False, several), colour, False))
        name = _label(run, panel, label, True, several)
        if certified is not None:
            steps, values, low, high = certified
            found.append(
                Curve(name=name, role=colour, x=steps, y=values, low=low, high=high, dash=True, markers=True)
            )
        elif (series := known.get(f"eval_{metric}")) is not None:
            found.append(_curve(series, name, colour, True))
    return found


def _certified(run: Run, quantity: str) -> tuple[list[float], ...] | None:
    """Steps, values and interval ends of a quantity at the evaluations on the way; of several sets, the first."""
    first = next((record.get("name") for record in run.evaluated), None)
    rows: dict[float, tuple[float, float, float]] = {}
    for record in run.evaluated:
        step, value = finite(record.get("step")), finite(record.get(quantity))
        interval = pair(record.get(f"{quantity}_ci"))
        if record.get("name") == first and step is not None and value is not None and interval is not None:
            rows[step] = (value, *interval)
    if not rows:
        return None
    steps = sorted(rows)
    return (steps, *([rows[step][place] for step in steps] for place in range(3)))


def _label(run: Run, panel: _Panel, label: str, held_out: bool, several: bool) -> str:
    if len(panel.metrics) == 1:
        where = "held out" if held_out else label
    else:
        where = f"{label}, held out" if held_out else label
    return f"{run.name}: {where}" if several else where


def _curve(series: Series, name: str, role: str, held_out: bool) -> Curve:
    few = len(series.steps) <= 40
    return Curve(
        name=name, role=role, x=series.steps, y=series.values, dash=held_out, markers=held_out and few
    )


def _words(panel: _Panel, curves: Sequence[Curve]) -> str:
    ends = "; ".join(
        f"{curve.name} from {curve.y[0]:.3g} at step {curve.x[0]:g} to {curve.y[-1]:.3g} at step {curve.x[-1]:g}"
        for curve in curves
    )
    return f"{ends[:1].upper()}{ends[1:]}.".replace(" -", " \u2212")


def _table(panel: _Panel, curves: Sequence[Curve]) -> Table:
    steps = sorted({step for curve in curves for step in curve.x})
    known = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    kept = {steps[index] for index in thinned(len(steps), _TABLE_ROWS)}
    kept |= {step for values in known if len(values) <= _TABLE_ROWS for step in values}
    note = "" if len(kept) == len(steps) else f", {len(kept)} of {len(steps)} steps"
    return Table(
        caption=f"{panel.title}{note}",
        head=["step", *(curve.name for curve in curves)],
        rows=[
            [f"{step:g}", *(f"{values[step]:.4g}" if step in values else None for values in known)]
            for step in sorted(kept)
        ],
        numeric=frozenset(range(len(curves) + 1)),
    )


def training_notes(runs: Sequence[Run]) -> list[str]:
    """Where curves come from, and what is not in them."""
    notes: list[str] = []
    for run in runs:
        if run.training is None:
            continue
        beginning = f"{run.name}: from" if len(runs) > 1 else "From"
        every = max((series.every for series in run.training.series.values()), default=1)
        thin = f"; one of {every} logged steps is drawn" if every > 1 else ""
        lost = run.training.not_finite
        gaps = (
            f"; {lost:,} logged {'value was' if lost == 1 else 'values were'} not finite and left out"
            if lost
            else ""
        )
        notes.append(f"{beginning} {run.training.source}{thin}{gaps}.")
    return notes


def health_words(run: Run) -> str:
    """What the guards say, in a sentence."""
    health = run.health
    if health is None:
        return ""
    if health.occurrences:
        count = len(health.occurrences)
        return f"{count} finding{'s' if count > 1 else ''} in {health.last_step:,} steps."
    if health.last_step < health.window:
        return (
            f"Nothing was found in {health.last_step:,} steps, which are too few to judge: the guards look at "
            f"{health.window} together."
        )
    return f"Nothing was found in {health.last_step:,} steps."


def health_tables(run: Run) -> list[Table]:
    """The findings, most serious first; no table where there are none."""
    if run.health is None or not run.health.occurrences:
        return []
    found = sorted(run.health.occurrences, key=lambda item: item.finding.severity != "error")
    rows = [
        (
            item.finding.guard.replace("_", " "),
            item.finding.severity,
            f"{item.first_step}"
            if item.steps == 1
            else f"{item.first_step} to {item.last_step} ({item.steps} steps)",
            item.finding.message,
            item.finding.advice,
        )
        for item in found
    ]
    return [
        Table(
            caption="Findings of the guards", head=("guard", "kind", "steps", "what", "what to do"), rows=rows
        )
    ]


def health_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs that nothing watched."""
    return [
        Missing(
            run=run.name,
            what="There is no record of the run's health",
            file="health.jsonl",
            command="distal align ... --health true",
        )
        for run in runs
        if run.health is None
    ]
