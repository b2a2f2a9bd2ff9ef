"""`distal data split`: two files that share no prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli import reading

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("split")(split)


def split(  # noqa: PLR0913 - the parameters of a verb are its options
    data: Annotated[
        str, typer.Argument(help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.")
    ],
    train: Annotated[Path, typer.Argument(help="File for the larger part: .jsonl, .jsonl.gz or .parquet.")],
    held_out: Annotated[Path, typer.Argument(help="File for the held-out part.")],
    eval_size: Annotated[
        float, typer.Option(help="How much is held out, in whole prompts: a number or a fraction.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle of prompts.")] = 0,
    source_split: reading.Split = None,
    format: reading.Format = None,
    map: reading.Map = None,
    chat: reading.Chat = False,
    from_grades: reading.FromGrades = None,
    grades: reading.Grades = None,
    grade_threshold: reading.GradeThreshold = None,
    grade_ties: reading.GradeTies = None,
    grade_margin: reading.GradeMargin = None,
    grade_seed: reading.GradeSeed = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write data into two files in TRL's columns; all preferences of one prompt go into the same one."""
    from distal.report.text import printable
    from distal.workflow.data_verbs import split_file
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
    )
    report, n_held_out = split_file(
        data,
        train,
        held_out,
        options,
        eval_size=eval_size,
        seed=seed,
        split_name=source_split,
        overwrite=overwrite,
    )
    for line in report.summary():
        typer.echo(printable(line))
    typer.echo(f"Written: {train} ({report.n_kept - n_held_out}), {held_out} ({n_held_out})")
