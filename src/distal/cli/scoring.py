"""Options that all verbs share which score preferences: data, tokens, and what a forward pass holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

__all__ = ["DATA", "Scoring"]

DATA = "Data"


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is scored and how, whatever the model; for verbs that are `grouped`. Named as in `ScoringOptions`."""

    data: Annotated[
        str,
        typer.Option(
            help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.",
            rich_help_panel=DATA,
        ),
    ]
    max_length: Annotated[int, typer.Option(help="Longest row, tokens.", rich_help_panel=DATA)] = 1024
    truncation: Annotated[
        str, typer.Option(help="drop, error, truncate_prompt or truncate_completion.", rich_help_panel=DATA)
    ] = "drop"
    loss_on: Annotated[
        str,
        typer.Option(help="What is scored: completion, last_turn or assistant_turns.", rich_help_panel=DATA),
    ] = "completion"
    on_bad_rows: Annotated[str, typer.Option(help="drop (counted) or error.", rich_help_panel=DATA)] = "drop"
    tokens_per_batch: Annotated[int, typer.Option(help="Tokens per forward pass.", rich_help_panel=DATA)] = (
        8192
    )
    layout: Annotated[
        str, typer.Option(help="auto, padded, packed or prefix_shared; speed only.", rich_help_panel=DATA)
    ] = "auto"
