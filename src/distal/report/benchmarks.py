"""The table of a benchmark run for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from distal.evaluation.benchmarks.records import BenchmarkReport, BenchmarkRow

__all__ = ["benchmark_table"]

_LEVEL = 0.05


def benchmark_table(report: BenchmarkReport, *, title: str = "Benchmarks") -> Table:
    """A benchmark run as a table: each metric before and after with standard errors, the difference with its own.

    Differences that hold at the level 5 % after Holm's adjustment are coloured, green where they are to the better.

    Args:
        report: what to show.
        title: title of the table.

    Returns:
        A table to be printed by a `rich` console, notes below.

    Examples:
        >>> from distal.evaluation.benchmarks import BenchmarkReport
        >>> empty = BenchmarkReport(
        ...     rows=[], subtasks=[], groups={}, settings={}, versions={}, notes=["none"], identical=False
        ... )
        >>> benchmark_table(empty).row_count
        0
    """
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    paired = any(row.before is not None for row in report.rows)
    table.add_column("task")
    table.add_column("metric")
    table.add_column("documents", justify="right")
    for name in ("before", "after", "difference", "p (Holm)") if paired else ("after",):
        table.add_column(name, justify="right")
    for row in report.rows:
        cells = [Text(row.task), Text(row.metric), Text(f"{row.n:,}")]
        after = Text(_with_error(row.after, row.after_stderr))
        if paired:
            cells += [Text(_with_error(row.before, row.before_stderr)), after, *_difference(row)]
        else:
            cells.append(after)
        table.add_row(*cells)
    table.caption = Text("\n".join(f"Note: {note}." for note in ("± is one standard error", *report.notes)))
    return table


def _difference(row: BenchmarkRow) -> tuple[Text, Text]:
    """The difference and its p-value."""
    style = ""
    if row.p_holm is not None and row.p_holm <= _LEVEL and row.difference:
        style = "bold green" if (row.difference > 0) == row.higher_is_better else "bold red"
    shown = Text(_with_error(row.difference, row.difference_stderr, sign="+"), style=style)
    return shown, Text("" if row.p_holm is None else f"{row.p_holm:.3g}", style=style)


def _with_error(value: float | None, stderr: float | None, *, sign: str = "") -> str:
    """A value with its standard error."""
    if value is None:
        return ""
    number = f"{value:{sign}.4f}"
    return number if stderr is None else f"{number} ± {stderr:.4f}"
