"""`distal data split`: two files that share no prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.reading import Reading

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("split")(grouped(split))


def split(
    data: Annotated[
        str, typer.Argument(help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.")
    ],
    train: Annotated[Path, typer.Argument(help="File for the larger part: .jsonl, .jsonl.gz or .parquet.")],
    held_out: Annotated[Path, typer.Argument(help="File for the held-out part.")],
    reading: Reading,
    eval_size: Annotated[
        float, typer.Option(help="How much is held out, in whole prompts: a number or a fraction.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle of prompts.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write data into two files in TRL's columns; all preferences of one prompt go into the same one."""
    from distal.workflow.data_verbs import split_file

    options = reading.options()
    report, n_held_out = split_file(
        data,
        train,
        held_out,
        options,
        eval_size=eval_size,
        seed=seed,
        split_name=reading.split,
        overwrite=overwrite,
    )
    for line in report.summary():
        typer.echo(line)
    typer.echo(f"Written: {train} ({report.n_kept - n_held_out}), {held_out} ({n_held_out})")
