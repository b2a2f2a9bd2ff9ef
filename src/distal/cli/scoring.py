"""Options that all verbs share which score preferences under a model: models, tokens, and what a forward pass holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

__all__ = ["DATA", "MODELS", "Scoring"]

MODELS, DATA = "Models", "Data"


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is scored and how; a parameter of verbs that are `grouped`. Named as in `ScoringOptions`."""

    model: Annotated[
        str, typer.Option(help="Local folder or hub id of a model or PEFT adapter.", rich_help_panel=MODELS)
    ]
    data: Annotated[
        str,
        typer.Option(
            help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.",
            rich_help_panel=DATA,
        ),
    ]
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, if not the model's.", rich_help_panel=MODELS)
    ] = None
    chat_template: Annotated[str | None, typer.Option(help="Jinja file.", rich_help_panel=MODELS)] = None
    dtype: Annotated[
        str,
        typer.Option(help="float32, bfloat16, float16, float64, or auto: as stored.", rich_help_panel=MODELS),
    ] = "float32"
    attn_implementation: Annotated[
        str | None, typer.Option(help="eager, sdpa, flash_attention_2, ...", rich_help_panel=MODELS)
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with the models.", rich_help_panel=MODELS
        ),
    ] = False
    max_length: Annotated[int, typer.Option(help="Longest row, tokens.", rich_help_panel=DATA)] = 1024
    truncation: Annotated[
        str, typer.Option(help="drop, error, truncate_prompt or truncate_completion.", rich_help_panel=DATA)
    ] = "drop"
    on_bad_rows: Annotated[str, typer.Option(help="drop (counted) or error.", rich_help_panel=DATA)] = "drop"
    tokens_per_batch: Annotated[int, typer.Option(help="Tokens per forward pass.", rich_help_panel=DATA)] = (
        8192
    )
    layout: Annotated[
        str, typer.Option(help="auto, padded, packed or prefix_shared; speed only.", rich_help_panel=DATA)
    ] = "auto"
