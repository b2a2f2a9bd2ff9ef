"""`distal data convert`: any readable data in TRL's columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli import reading

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("convert")(convert)


def convert(  # noqa: PLR0913 - the parameters of a verb are its options
    data: Annotated[
        str, typer.Argument(help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.")
    ],
    output: Annotated[Path, typer.Argument(help="File to write: .jsonl, .jsonl.gz or .parquet.")],
    split: reading.Split = None,
    format: reading.Format = None,
    map: reading.Map = None,
    chat: reading.Chat = False,
    from_grades: reading.FromGrades = None,
    grades: reading.Grades = None,
    grade_threshold: reading.GradeThreshold = None,
    grade_ties: reading.GradeTies = None,
    grade_margin: reading.GradeMargin = None,
    grade_seed: reading.GradeSeed = None,
    grade_weights: Annotated[
        bool,
        typer.Option(
            "--grade-weights",
            help="Add a column weight: difference of grades over its mean.",
            rich_help_panel=reading.GRADES,
        ),
    ] = False,
    on_bad_rows: Annotated[str, typer.Option(help="drop (counted) or error.")] = "drop",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Write data in the columns prompt, chosen, rejected, or prompt, completion, label."""
    from distal.report.text import printable
    from distal.workflow.data_verbs import convert_file
    from distal.workflow.reading import read_options

    options = read_options(
        format=format,
        map=map,
        chat=chat,
        from_grades=from_grades,
        grades=grades,
        grade_threshold=grade_threshold,
        grade_ties=grade_ties,
        grade_margin=grade_margin,
        grade_seed=grade_seed,
        grade_weights=grade_weights,
    )
    report = convert_file(data, output, options, split=split, on_bad_rows=on_bad_rows, overwrite=overwrite)
    for line in report.summary():
        typer.echo(printable(line))
    typer.echo(f"Written: {output}")
