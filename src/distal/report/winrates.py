"""A win rate as a table for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from distal.evaluation import format_interval
from distal.evaluation.judging import WinRate

__all__ = ["win_rate_table"]


def win_rate_table(record: WinRate) -> Table:
    """Numbers with their intervals, the cautions below.

    Args:
        record: what to show.

    Returns:
        A table of three columns, to be printed by a `rich` console.
    """
    table = Table(title="Win rate", title_justify="left", title_style="bold", caption_justify="left")
    table.add_column(Text(f"{record.model} against {record.baseline}"))
    table.add_column("value", justify="right")
    table.add_column(f"{100 * record.confidence:g} % interval", justify="right")
    table.add_row("win rate (ties count half)", f"{record.win_rate:.3f}", _interval(record.interval))
    if record.length_controlled is not None:
        error = record.length_controlled["standard_error"]
        value = f"{record.length_controlled['win_rate']:.3f}"
        table.add_row("AlpacaEval's length-controlled", value, f"standard error {error:.3f}")
    if record.length_adjusted is not None:
        adjusted = record.length_adjusted
        table.add_row("at equal length (our model)", f"{adjusted.win_rate:.3f}", _interval(adjusted.interval))
    equal = f" ({record.identical:,} with equal answers)" if record.identical else ""
    table.add_row("wins, losses, ties", f"{record.wins:,}, {record.losses:,}, {record.ties:,}", equal.strip())
    failed = f", {record.failed:,} without a verdict" if record.failed else ""
    table.add_row("prompts", f"{record.n:,}{failed}", "")
    if record.order_agreement is not None:
        table.add_row("same verdict in both orders", f"{record.order_agreement:.3f}", "")
    if record.first_preferred is not None:
        table.add_row("preference for the answer shown first", f"{record.first_preferred:.3f}", "")
    table.caption = Text("\n".join(f"Note: {note}" for note in record.notes))
    return table


def _interval(ends: tuple[float, float] | None) -> str:
    return "undefined" if ends is None else format_interval(ends)
