"""`distal data`: the verbs about data, and `distal data formats`."""

from __future__ import annotations

from typing import Annotated

import typer

from distal.cli import data_check, data_convert, data_split

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verbs to the application."""
    verbs = typer.Typer(no_args_is_help=True, help="Check, convert and split preference data.")
    data_check.register(verbs)
    data_convert.register(verbs)
    data_split.register(verbs)
    verbs.command("formats")(formats)
    app.add_typer(verbs, name="data")


def formats(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """The formats that are recognised, with the licence and source of the public sets they are for."""
    import json

    from distal.data import FORMATS

    if as_json:
        records = [
            {
                "name": form.name,
                "kind": form.kind,
                "title": form.title,
                "columns": sorted(form.columns),
                "licence": form.origin.licence,
                "citation": form.origin.citation,
                "grades": dict(form.grades),
            }
            for form in FORMATS.values()
        ]
        typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("format", "kind", "rows", "licence, source"):
        table.add_column(column, overflow="fold", no_wrap=column in ("format", "kind"))
    for form in FORMATS.values():
        table.add_row(form.name, form.kind, form.title, str(form.origin))
    Console().print(table)
