"""Options that all verbs share which state a result, and how they speak meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

__all__ = ["RESULT", "JsonOnly", "Overwrite", "Resampling", "Result", "teller"]

RESULT = "Result"

JsonOnly = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document to stdout, and nothing else there.", rich_help_panel=RESULT
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace existing results.", rich_help_panel=RESULT),
]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is printed, and what may be replaced; a parameter of verbs that are `grouped`."""

    json_only: JsonOnly = False
    overwrite: Overwrite = False


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are found; a parameter of verbs that are `grouped`. Named as in the options of workflows."""

    confidence: Annotated[
        float, typer.Option(help="Confidence of the intervals.", rich_help_panel=RESULT)
    ] = 0.95
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", rich_help_panel=RESULT)] = 1000
    seed: Annotated[int, typer.Option(help="Seed of the resamples.", rich_help_panel=RESULT)] = 0


def teller() -> Callable[[str], None]:
    """What long work says meanwhile, to stderr: stdout belongs to the result."""
    from rich.console import Console

    notes = Console(stderr=True)

    def tell(line: str) -> None:
        notes.print(line, highlight=False, markup=False, soft_wrap=True)

    return tell
