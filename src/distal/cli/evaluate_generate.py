"""`distal evaluate generate`: a model's answers to prompts, in AlpacaEval's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.loading import MODELS, Loading
from distal.cli.reading import Reading
from distal.cli.results import RESULT, Result, teller
from distal.cli.serving import Serving

if TYPE_CHECKING:
    from distal.evaluation.generation import SamplingOptions

__all__ = ["register"]

_PROMPTS, _ANSWERS = "Prompts", "Answers"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What is answered. Named as in `GenerateOptions`."""

    prompts: Annotated[
        str,
        typer.Option(
            help="File with a column of prompts, or preferences: .jsonl, .json, .csv, .parquet, folder or hub id.",
            rich_help_panel=_PROMPTS,
        ),
    ]
    prompt_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the prompts; prompt or instruction if absent.", rich_help_panel=_PROMPTS
        ),
    ] = None
    limit: Annotated[
        int | None, typer.Option(help="Most prompts, the first ones.", rich_help_panel=_PROMPTS)
    ] = None
    on_bad_rows: Annotated[str, typer.Option(help="drop (counted) or error.", rich_help_panel=_PROMPTS)] = (
        "drop"
    )
    on_long_prompts: Annotated[
        str,
        typer.Option(
            help="error or drop, for prompts that leave no room for the answer.", rich_help_panel=_PROMPTS
        ),
    ] = "error"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, tokens.", rich_help_panel=_ANSWERS)] = (
        1024
    )
    temperature: Annotated[
        float, typer.Option(help="0 takes the most probable token each time.", rich_help_panel=_ANSWERS)
    ] = 0.0
    top_p: Annotated[
        float, typer.Option(help="Probability mass that is drawn from.", rich_help_panel=_ANSWERS)
    ] = 1.0
    top_k: Annotated[
        int,
        typer.Option(help="Most probable tokens that are drawn from; 0 for all.", rich_help_panel=_ANSWERS),
    ] = 0
    stop: Annotated[
        list[str] | None,
        typer.Option(help="String that ends an answer; may be repeated.", rich_help_panel=_ANSWERS),
    ] = None
    stop_token: Annotated[
        list[str] | None,
        typer.Option(
            help="Token that ends an answer, beside the model's own; may be repeated.",
            rich_help_panel=_ANSWERS,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the draws.", rich_help_panel=_ANSWERS)] = 0

    def options(self) -> SamplingOptions:
        """What was given, checked."""
        from distal.evaluation.generation import SamplingOptions

        return SamplingOptions(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop or ()),
            stop_tokens=tuple(self.stop_token or ()),
            seed=self.seed,
        )


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("generate")(grouped(generate))


def generate(  # noqa: PLR0913 - the parameters of a verb are its options
    model: Annotated[
        str,
        typer.Option(
            help="Local folder or hub id of a model or PEFT adapter; with --engine server its name there.",
            rich_help_panel=MODELS,
        ),
    ],
    prompts: Prompts,
    sampling: Sampling,
    loading: Loading,
    reading: Reading,
    serving: Serving,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON file for the answers.", rich_help_panel=RESULT)
    ],
    result: Result,
    engine: Annotated[
        str,
        typer.Option(help="transformers, vllm (if installed) or server.", rich_help_panel=MODELS),
    ] = "transformers",
    batch_size: Annotated[
        int, typer.Option(help="Prompts per batch; memory and speed only.", rich_help_panel=MODELS)
    ] = 8,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model in the file; the last part of --model if absent.", rich_help_panel=RESULT
        ),
    ] = None,
) -> None:
    """A model's answers to prompts, as AlpacaEval's `model_outputs` file with the settings beside it.

    Repeated prompts are answered once. A run that was stopped, by Ctrl-C or otherwise, goes on where it was when the
    same command is given again.
    """
    from distal.workflow.generation import GenerateOptions, generate

    options = GenerateOptions(
        model=model,
        engine=engine,
        batch_size=batch_size,
        name=name,
        output=output,
        overwrite=result.overwrite,
        sampling=sampling.options(),
        split=reading.split,
        reading=reading.options(),
        **vars(prompts),
        **vars(loading),
        **serving.options(),
    )
    run = generate(options, tell=teller())
    if result.json_only:
        typer.echo(run.settings.read_text(encoding="utf-8").rstrip())
        return
    typer.echo(f"Written: {run.outputs} ({run.n:,} answers)")
    typer.echo(f"Written: {run.settings}")
