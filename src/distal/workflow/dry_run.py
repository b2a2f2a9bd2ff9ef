"""`distal align --dry-run`: what a run would take, before anything is spent."""

from __future__ import annotations

import json
from datetime import timedelta
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from distal.training.forecast import Forecast, forecast
from distal.workflow.alignment import ready
from distal.workflow.circumstances import check_circumstances
from distal.workflow.notes import warnings_as_notes
from distal.workflow.options import AlignOptions

__all__ = ["dry_run"]

_GIB = 2**30


def dry_run(options: AlignOptions, *, console: Console, as_json: bool = False) -> Forecast:
    """Load and check everything as a run would, measure a few micro-batches, and tell; nothing is written.

    Args:
        options: of the run.
        console: where it is told.
        as_json: print one JSON object instead of a table.

    Raises:
        DistalError: what would stop the run.
    """
    check_circumstances(options)
    quiet = Console(quiet=True) if as_json else console
    notes = warnings_as_notes(lambda line: quiet.print(line, highlight=False, markup=False, soft_wrap=True))
    with notes, TemporaryDirectory(prefix="distal-") as nowhere:
        options.training.output_dir = nowhere  # the Trainer makes the folder when it is built
        trainer, _ = ready(options, quiet)
        result = forecast(trainer)
    if as_json:
        print(json.dumps(result.as_dict(), indent=1))  # noqa: T201 - a console would wrap it
    else:
        console.print(_table(result))
        console.print(f"strategy {result.strategy}", highlight=False, markup=False)
        console.print("Nothing was written. Times are for this machine as it is now.", highlight=False)
    return result


def _table(result: Forecast) -> Table:
    table = Table(title=f"What this run would take on {result.device}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for part, size in result.memory.items():
        table.add_row(part, f"{size / _GIB:.2f} GiB")
    table.add_row("peak memory", f"{result.peak_bytes / _GIB:.2f} GiB", style="bold", end_section=True)
    table.add_row("tokens per step, with padding", f"{result.tokens_per_step:,}")
    table.add_row("time per step", f"{result.seconds_per_step:.2f} s")
    table.add_row(f"training, {result.steps} steps", _time(result.seconds_training))
    table.add_row("reference and final scores", _time(result.seconds_scoring))
    table.add_row("whole run", _time(result.seconds), style="bold")
    return table


def _time(seconds: float) -> str:
    return str(timedelta(seconds=max(1, round(seconds))))
