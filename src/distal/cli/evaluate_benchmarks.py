"""`distal evaluate benchmarks`: what a model can do, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["benchmarks"]

_MODELS, _TASKS, _RESULT = "Models", "Tasks", "Result"


def benchmarks(  # noqa: PLR0913 - the parameters of a verb are its options
    model: Annotated[
        str, typer.Option(help="Local folder or hub id of a model or PEFT adapter.", rich_help_panel=_MODELS)
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for benchmarks.json and finished tasks; the same call goes on there.",
            rich_help_panel=_RESULT,
        ),
    ],
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            "--reference",
            help="Model to compare with; an adapter's own base if absent.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="open-llm: documents from the hub; local: documents from files.", rich_help_panel=_TASKS
        ),
    ] = "open-llm",
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks or groups, as --tasks arc_easy,gsm8k; all of the suite if absent.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    benchmark_data: Annotated[
        Path | None, typer.Option(help="Folder with the files of the suite local.", rich_help_panel=_TASKS)
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(
            help="Folder with further task files of lm-evaluation-harness; code that they name is run.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    num_fewshot: Annotated[int, typer.Option(help="Examples in the prompt.", rich_help_panel=_TASKS)] = 0,
    limit: Annotated[
        int | None, typer.Option(help="First documents of each task; all if absent.", rich_help_panel=_TASKS)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of examples.", rich_help_panel=_TASKS)] = 1234,
    max_gen_tokens: Annotated[
        int | None,
        typer.Option(help="Longest generation, tokens; the task's if absent.", rich_help_panel=_TASKS),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Prompts become messages, which the chat template writes.",
            rich_help_panel=_TASKS,
        ),
    ] = False,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file.", rich_help_panel=_MODELS)] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, if not the models' own.", rich_help_panel=_MODELS)
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16, float16, float64, or auto: as stored.", rich_help_panel=_MODELS
        ),
    ] = "float32",
    attn_implementation: Annotated[
        str | None, typer.Option(help="eager, sdpa, flash_attention_2, ...", rich_help_panel=_MODELS)
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with the models.", rich_help_panel=_MODELS
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(help="Rows of a forward pass; memory and speed only.", rich_help_panel=_MODELS)
    ] = 8,
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
        typer.Option("--overwrite", help="Replace results of other settings.", rich_help_panel=_RESULT),
    ] = False,
) -> None:
    """Benchmarks of lm-evaluation-harness for a model and the one before it, over the same documents.

    Zero-shot ARC, HellaSwag, MMLU, TruthfulQA, WinoGrande and GSM8K. Each difference comes with the standard error of
    the documents' differences and a p-value adjusted for the number of rows. Finished tasks are kept: after an
    interruption the same call goes on.
    """
    from rich.console import Console

    from distal.report.benchmarks import benchmark_table
    from distal.workflow.benchmark_options import BenchmarkOptions
    from distal.workflow.benchmarking import run_benchmarks

    options = BenchmarkOptions(
        model=model,
        output=output,
        before=before,
        suite=suite,
        tasks=tuple(name.strip() for names in tasks or () for name in names.split(",") if name.strip()),
        benchmark_data=benchmark_data,
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        max_gen_tokens=max_gen_tokens,
        apply_chat_template=apply_chat_template,
        chat_template=chat_template,
        tokenizer=tokenizer,
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
    )
    notes = Console(stderr=True)
    report = run_benchmarks(
        options, tell=lambda line: notes.print(line, highlight=False, markup=False, soft_wrap=True)
    )
    if json_only:
        typer.echo(report.to_json())
        return
    Console().print(benchmark_table(report))
    typer.echo(f"Written: {options.report_path}")
