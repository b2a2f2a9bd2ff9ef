"""`distal env`: versions and hardware for bug reports."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command("env")(env)


def env(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Versions and hardware, to paste into a bug report."""
    from distal.workflow.environment import environment

    facts = environment()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else "none" if value is None else value
        typer.echo(f"{name:<{width}}  {shown}")
