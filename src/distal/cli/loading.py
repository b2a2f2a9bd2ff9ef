"""Options that all verbs share which load language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

__all__ = ["MODELS", "Loading"]

MODELS = "Models"


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How models and their tokenizer are loaded; for verbs that are `grouped`. Named as in the options of workflows."""

    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, if not the model's own.", rich_help_panel=MODELS)
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
            "--trust-remote-code", help="Run code that comes with the model.", rich_help_panel=MODELS
        ),
    ] = False
