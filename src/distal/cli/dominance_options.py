"""Options of `distal evaluate dominance` about what is asked of the rewards."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["ByPrompt", "Compare", "LengthControlled", "Models", "Order", "SliceBy", "Threshold"]

ASKED = "Questions"

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="Local folder or hub id of a model or PEFT adapter; NAME=PATH, several times, for several runs.",
        rich_help_panel="Models",
    ),
]
Order = Annotated[
    int, typer.Option(help="2 adds second order: integrated quantiles.", rich_help_panel=ASKED, min=1, max=2)
]
Threshold = Annotated[
    float,
    typer.Option(help="Largest violation ratio that counts as almost dominance.", rich_help_panel=ASKED),
]
SliceBy = Annotated[
    list[str] | None,
    typer.Option(
        help="Cut the data by completion_length, prompt_length, turns or a column (NAME:N makes N bins); "
        "several times, for several.",
        rich_help_panel=ASKED,
    ),
]
LengthControlled = Annotated[
    bool,
    typer.Option(
        "--length-controlled",
        help="Add the comparison at equal completion lengths.",
        rich_help_panel=ASKED,
    ),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare", help="Do the gaps of one run dominate those of another?", rich_help_panel=ASKED
    ),
]
ByPrompt = Annotated[
    bool,
    typer.Option(
        help="Resample rows of one prompt together, as is right; or one by one.", rich_help_panel=ASKED
    ),
]
