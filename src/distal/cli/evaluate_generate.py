"""`distal evaluate generate`: a model's answers to prompts, in AlpacaEval's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.reading import Reading
from distal.cli.serving import Serving

__all__ = ["register"]

_MODEL, _PROMPTS, _ANSWERS, _RESULT = "Model", "Prompts", "Answers", "Result"


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("generate")(grouped(generate))


def generate(  # noqa: PLR0913 - the parameters of a verb are its options
    model: Annotated[
        str,
        typer.Option(
            help="Local folder or hub id of a model or PEFT adapter; with --engine server its name there.",
            rich_help_panel=_MODEL,
        ),
    ],
    prompts: Annotated[
        str,
        typer.Option(
            help="File with a column of prompts, or preferences: .jsonl, .json, .csv, .parquet, folder or hub id.",
            rich_help_panel=_PROMPTS,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSON file for the answers.", rich_help_panel=_RESULT)
    ],
    reading: Reading,
    serving: Serving,
    engine: Annotated[
        str,
        typer.Option(help="transformers, vllm (if installed) or server.", rich_help_panel=_MODEL),
    ] = "transformers",
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model in the file; the last part of --model if absent.", rich_help_panel=_RESULT
        ),
    ] = None,
    prompt_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the prompts; prompt or instruction if absent.", rich_help_panel=_PROMPTS
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most prompts, the first ones.", rich_help_panel=_PROMPTS)
    ] = None,
    on_bad_rows: Annotated[
        str, typer.Option(help="drop (counted) or error.", rich_help_panel=_PROMPTS)
    ] = "drop",
    on_long_prompts: Annotated[
        str,
        typer.Option(
            help="error or drop, for prompts that leave no room for the answer.", rich_help_panel=_PROMPTS
        ),
    ] = "error",
    max_new_tokens: Annotated[
        int, typer.Option(help="Longest answer, tokens.", rich_help_panel=_ANSWERS)
    ] = 1024,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most probable token each time.", rich_help_panel=_ANSWERS)
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Probability mass that is drawn from.", rich_help_panel=_ANSWERS)
    ] = 1.0,
    top_k: Annotated[
        int,
        typer.Option(help="Most probable tokens that are drawn from; 0 for all.", rich_help_panel=_ANSWERS),
    ] = 0,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="String that ends an answer; may be repeated.", rich_help_panel=_ANSWERS),
    ] = None,
    stop_token: Annotated[
        list[str] | None,
        typer.Option(
            help="Token that ends an answer, beside the model's own; may be repeated.",
            rich_help_panel=_ANSWERS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", rich_help_panel=_ANSWERS)] = 0,
    batch_size: Annotated[
        int, typer.Option(help="Prompts per batch; memory and speed only.", rich_help_panel=_MODEL)
    ] = 8,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, if not the model's.", rich_help_panel=_MODEL)
    ] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file.", rich_help_panel=_MODEL)] = None,
    dtype: Annotated[
        str,
        typer.Option(help="float32, bfloat16, float16, float64, or auto: as stored.", rich_help_panel=_MODEL),
    ] = "float32",
    attn_implementation: Annotated[
        str | None, typer.Option(help="eager, sdpa, flash_attention_2, ...", rich_help_panel=_MODEL)
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with the model.", rich_help_panel=_MODEL
        ),
    ] = False,
    json_only: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON document to stdout, and nothing else there.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace existing files of those names.", rich_help_panel=_RESULT),
    ] = False,
) -> None:
    """A model's answers to prompts, as AlpacaEval's `model_outputs` file with the settings beside it.

    Repeated prompts are answered once. A run that was stopped, by Ctrl-C or otherwise, goes on where it was when the
    same command is given again.
    """
    from rich.console import Console

    from distal.evaluation.generation import SamplingOptions
    from distal.workflow.generation import GenerateOptions, generate

    options = GenerateOptions(
        model=model,
        prompts=prompts,
        output=output,
        engine=engine,
        base_url=serving.base_url,
        api_key_env=serving.api_key_env,
        name=name,
        prompt_column=prompt_column,
        split=reading.split,
        limit=limit,
        on_bad_rows=on_bad_rows,
        on_long_prompts=on_long_prompts,
        sampling=SamplingOptions(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=tuple(stop or ()),
            stop_tokens=tuple(stop_token or ()),
            seed=seed,
        ),
        batch_size=batch_size,
        concurrency=serving.concurrency,
        timeout=serving.timeout,
        retries=serving.retries,
        budget=serving.budget(),
        tokenizer=tokenizer,
        chat_template=chat_template,
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
        reading=reading.options(),
    )
    notes = Console(stderr=True)
    run = generate(
        options, tell=lambda line: notes.print(line, highlight=False, markup=False, soft_wrap=True)
    )
    if json_only:
        typer.echo(run.settings.read_text(encoding="utf-8").rstrip())
        return
    typer.echo(f"Written: {run.outputs} ({run.n:,} answers)")
    typer.echo(f"Written: {run.settings}")
