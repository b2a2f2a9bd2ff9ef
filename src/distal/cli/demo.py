"""`distal demo`: the main job on data that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command("demo")(demo)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few seconds instead of minutes, with a worse result.")
    ] = False,
) -> None:
    """Train a small language model on movie-review snippets, and align it towards the liked ones.

    Takes a few minutes on two CPU cores and needs no network.
    """
    from distal.demo import run_demo

    run_demo(output, seed=seed, quick=quick)
