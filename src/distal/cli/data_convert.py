"""`distal data convert`: any readable data in TRL's columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.reading import GRADES, Reading

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("convert")(grouped(convert))


def convert(
    data: Annotated[
        str, typer.Argument(help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.")
    ],
    output: Annotated[Path, typer.Argument(help="File to write: .jsonl, .jsonl.gz or .parquet.")],
    reading: Reading,
    grade_weights: Annotated[
        bool,
        typer.Option(
            "--grade-weights",
            help="Add a column weight: difference of grades over its mean.",
            rich_help_panel=GRADES,
        ),
    ] = False,
    on_bad_rows: Annotated[str, typer.Option(help="drop (counted) or error.")] = "drop",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write data in the columns prompt, chosen, rejected, or prompt, completion, label."""
    from distal.workflow.data_verbs import convert_file

    options = reading.options(grade_weights=grade_weights)
    report = convert_file(
        data, output, options, split=reading.split, on_bad_rows=on_bad_rows, overwrite=overwrite
    )
    for line in report.summary():
        typer.echo(line)
    typer.echo(f"Written: {output}")
