"""`distal report`: one page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_DEFAULT = Path("report.html")


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command("report")(report)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders that distal align, demo or evaluate wrote; several are compared."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="HTML file to write; report.html if absent, none with --json.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Title of the page; the names of the runs if absent.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the page states as JSON, and nothing else there.")
    ] = False,
) -> None:
    """One page about a run: verdict, reward quantiles, samples, training, health, data, configuration.

    The page is a single file that works offline. Exit code 3: the page was made, but some files could not be read; it
    names them.
    """
    import json

    from distal.errors import DataError
    from distal.workflow.run_report import ReportOptions
    from distal.workflow.run_report import report as make_report

    place = output if output is not None or as_json else _DEFAULT
    made = make_report(ReportOptions(runs=runs, output=place, title=title, overwrite=overwrite))
    if as_json:
        typer.echo(json.dumps(made.statements, indent=2, allow_nan=False, ensure_ascii=False))
    else:
        from distal.report.text import printable

        for run in made.statements["runs"]:
            typer.echo(printable(f"{run['name']}: {run['headline']}. {run['sentence']}"))
        typer.echo(f"Written: {place} ({(made.size or 0) / 1e6:.1f} MB)")
    if made.problems:
        from distal.report.text import printable

        for name, problem in made.problems:
            typer.echo(printable(f"Not shown in full: {name}/{problem}"), err=True)
        raise typer.Exit(DataError.exit_code)
