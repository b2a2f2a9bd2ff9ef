"""Options that all verbs share which ask a model server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

__all__ = ["SERVER", "Serving"]

SERVER = "Server"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where a model is served, and what may be spent there; a parameter of verbs that are `grouped`."""

    base_url: Annotated[
        str | None,
        typer.Option(help="Address of the server, such as http://localhost:8000/v1.", rich_help_panel=SERVER),
    ] = None
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the key; OPENAI_API_KEY if absent. Keys are never stored or shown.",
            rich_help_panel=SERVER,
        ),
    ] = None
    concurrency: Annotated[int, typer.Option(help="Most requests at once.", rich_help_panel=SERVER)] = 8
    timeout: Annotated[float, typer.Option(help="Seconds for one answer.", rich_help_panel=SERVER)] = 300.0
    retries: Annotated[
        int,
        typer.Option(
            help="Repetitions of a request after time-outs, status 429 or 5xx.", rich_help_panel=SERVER
        ),
    ] = 5
    max_requests: Annotated[
        int | None, typer.Option(help="Stop after so many requests.", rich_help_panel=SERVER)
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(help="Stop after so many tokens, in and out.", rich_help_panel=SERVER)
    ] = None
    max_cost: Annotated[
        float | None, typer.Option(help="Stop at this cost; needs both prices.", rich_help_panel=SERVER)
    ] = None
    input_price: Annotated[
        float | None, typer.Option(help="Price of a million tokens read.", rich_help_panel=SERVER)
    ] = None
    output_price: Annotated[
        float | None, typer.Option(help="Price of a million tokens written.", rich_help_panel=SERVER)
    ] = None

    def options(self) -> dict[str, Any]:
        """What was given, under the names that the options of workflows have; what may be spent is checked."""
        from distal.evaluation.budget import BudgetLimits

        budget = BudgetLimits(
            requests=self.max_requests,
            tokens=self.max_tokens,
            cost=self.max_cost,
            input_price=self.input_price,
            output_price=self.output_price,
        )
        return {
            "base_url": self.base_url,
            "api_key_env": self.api_key_env,
            "concurrency": self.concurrency,
            "timeout": self.timeout,
            "retries": self.retries,
            "budget": budget,
        }
