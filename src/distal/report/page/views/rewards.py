"""Reward quantiles and their gap, of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence

from distal.report.page.certificates import Certificate, Curves
from distal.report.page.run import Run
from distal.report.page.views.parts import Curve, Missing, Plot, Table
from distal.report.page.wording import percent, signed

__all__ = ["gap_plot", "quantile_plots", "rewards_missing", "run_role"]


def run_role(index: int) -> str:
    """The colour of a run, by its place on the page."""
    return f"run-{index % 6}"


def rewards_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs without a certificate."""
    return [
        Missing(
            run=run.name,
            what="There is no dominance certificate to show",
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
