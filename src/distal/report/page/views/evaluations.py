"""Win rates and benchmarks as tables, with each interval drawn on a common scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distal.report.page.evaluations import Benchmark, WinRate
from distal.report.page.generations import GENERATIONS
from distal.report.page.run import Run
from distal.report.page.views.parts import Missing, Table, flattened, interval_marks
from distal.report.page.wording import percent, signed

__all__ = ["benchmark_notes", "benchmark_table", "evaluations_missing", "win_rate_notes", "win_rate_table"]


def evaluations_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs without win rates or benchmarks."""
    missing: list[Missing] = []
    for run in runs:
        before, after = _generations(run)
        if not run.win_rates:
            missing.append(
                Missing(
                    run=run.name,
                    what="There is no win rate to show",
                    file="evaluation/winrate.json",
                    command=f"distal evaluate winrate --outputs {after} "
                    f"--baseline {before} --judge JUDGE "
                    f"--output {run.folder / 'evaluation'}",
                )
            )
        if run.benchmarks is None:
            missing.append(
                Missing(
                    run=run.name,
                    what="There are no benchmarks to show",
                    file="evaluation/benchmarks.json",
                    command=f"distal evaluate benchmarks --model {run.folder} --before BASE "
                    f"--output {run.folder / 'evaluation'}",
                )
            )
    return missing


def _generations(run: Run) -> tuple[Path, Path]:
    """Files of the texts before and after: those that are there, else those that could be."""
    if run.samples is not None and len(run.samples.files) == 2:
        return run.folder / run.samples.files[0], run.folder / run.samples.files[1]
    return run.folder / GENERATIONS / "before.json", run.folder / GENERATIONS / "after.json"


def win_rate_table(runs: Sequence[Run]) -> Table | None:
    """All win rates; estimates that are adjusted for length stand in rows of their own."""
    rows: list[tuple[list[str], float | None, tuple[float, float] | None]] = []
    for run in runs:
        for rate in run.win_rates:
            names = [*([run.name] if len(runs) > 1 else []), rate.judge or "unknown", _opponents(rate)]
            counts = ", ".join(
                f"{count:,} {word}" for word, count in rate.counts.items() if count or word != "failed"
            )
            rows.append(([*names, "", counts], rate.rate, rate.interval))
            rows += [
                ([*names, name, ""], value, interval) for name, (value, interval) in rate.adjusted.items()
            ]
    if not rows:
        return None
    marks = interval_marks([(value, interval) for _, value, interval in rows], reference=0.5)
    first = ["run"] if len(runs) > 1 else []
    return Table(
        caption="Win rates; the line stands for 50 %, no preference",
        head=[*first, "judge", "model against baseline", "win rate", "interval", "", "judgements"],
        rows=[
            [*words[:-2], _rate(value, words[-2]), _bounds(interval), mark, words[-1]]
            for (words, value, interval), mark in zip(rows, marks, strict=True)
        ],
        numeric=frozenset((len(first) + 2, len(first) + 3)),
    )


def _opponents(rate: WinRate) -> str:
    return f"{rate.model or 'model'} against {rate.baseline or 'baseline'}"


def _rate(value: float | None, kind: str) -> str:
    shown = "unknown" if value is None else f"{100 * value:.1f} %"
    return f"{shown} ({kind})" if kind else shown


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def win_rate_notes(runs: Sequence[Run]) -> list[str]:
    """How far a judge can be trusted, one note for each."""
    notes: list[str] = []
    for run in runs:
        for rate in run.win_rates:
            parts = [f"Ties count half; {percent(rate.confidence)} intervals"]
            if rate.order_agreement is not None:
                share = f"{100 * rate.order_agreement:.0f} %"
                parts.append(
                    f"with the order of the two answers swapped, {share} of the verdicts stay as they are"
                )
            if rate.counts.get("failed"):
                parts.append(f"{rate.counts['failed']:,} judgements failed and count for neither side")
            parts += [note.rstrip(".") for note in rate.notes]
            where = f"{run.name}/{rate.file}" if len(runs) > 1 else rate.file
            notes.append(f"{'; '.join(parts)} ({where}).")
    return notes


def benchmark_table(runs: Sequence[Run]) -> Table | None:
    """Benchmarks before and after alignment."""
    rows = [(run, task) for run in runs if run.benchmarks is not None for task in run.benchmarks.tasks]
    if not rows:
        return None
    marks = interval_marks(
        [(task.difference, task.interval) for _, task in rows],
        reference=0.0,
        lower_is_better=[not task.higher_is_better for _, task in rows],
    )
    first = ["run"] if len(runs) > 1 else []
    return Table(
        caption="Benchmarks before and after, with standard errors; the line stands for no change",
        head=[*first, "task", "metric", "before", "after", "change", "95 % interval", "", "p (Holm)", "n"],
        rows=[
            [
                *([run.name] if first else []),
                *_benchmark_words(task),
                mark,
                "" if task.p_holm is None else f"{task.p_holm:.3f}",
                "" if task.n is None else f"{task.n:,}",
            ]
            for (run, task), mark in zip(rows, marks, strict=True)
        ],
        numeric=frozenset(len(first) + place for place in (2, 3, 4, 5, 7, 8)),
    )


def _benchmark_words(task: Benchmark) -> list[str]:
    interval = task.interval
    return [
        task.task,
        task.metric,
        _measured(task.before, task.before_stderr),
        _measured(task.after, task.after_stderr),
        "" if task.difference is None else signed(task.difference),
        "" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}",
    ]


def _measured(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")


def benchmark_notes(runs: Sequence[Run]) -> list[str]:
    """How the benchmarks were run, and what to be careful about."""
    notes: list[str] = []
    for run in runs:
        if run.benchmarks is None:
            continue
        beginning = f"{run.name}: " if len(runs) > 1 else ""
        settings = flattened(run.benchmarks.settings)
        if settings:
            notes.append(beginning + ", ".join(f"{name}: {value}" for name, value in settings.items()) + ".")
        notes += [f"{beginning}{note.rstrip('.')}." for note in run.benchmarks.notes]
    return notes
