"""Options that all verbs share which ask a model server."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "SERVER",
    "ApiKeyEnv",
    "BaseUrl",
    "Concurrency",
    "InputPrice",
    "MaxCost",
    "MaxRequests",
    "MaxTokens",
    "OutputPrice",
    "Retries",
    "Timeout",
]

SERVER = "Server"

BaseUrl = Annotated[
    str | None,
    typer.Option(help="Address of the server, such as http://localhost:8000/v1.", rich_help_panel=SERVER),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        help="Environment variable with the key; OPENAI_API_KEY if absent. Keys are never stored or shown.",
        rich_help_panel=SERVER,
    ),
]
Concurrency = Annotated[int, typer.Option(help="Most requests at once.", rich_help_panel=SERVER)]
Timeout = Annotated[float, typer.Option(help="Seconds for one answer.", rich_help_panel=SERVER)]
Retries = Annotated[
    int,
    typer.Option(help="Repetitions of a request after time-outs, status 429 or 5xx.", rich_help_panel=SERVER),
]
MaxRequests = Annotated[int | None, typer.Option(help="Stop after so many requests.", rich_help_panel=SERVER)]
MaxTokens = Annotated[
    int | None, typer.Option(help="Stop after so many tokens, in and out.", rich_help_panel=SERVER)
]
MaxCost = Annotated[
    float | None,
    typer.Option(help="Stop at this cost; needs both prices.", rich_help_panel=SERVER),
]
InputPrice = Annotated[
    float | None, typer.Option(help="Price of a million tokens read.", rich_help_panel=SERVER)
]
OutputPrice = Annotated[
    float | None, typer.Option(help="Price of a million tokens written.", rich_help_panel=SERVER)
]
