"""`distal evaluate benchmarks`: what a model can do, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from distal.cli.grouping import grouped
from distal.cli.loading import MODELS, Loading
from distal.cli.results import RESULT, Result, teller

__all__ = ["register"]

_TASKS = "Tasks"


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """What a model is asked. Named as in `BenchmarkOptions`."""

    suite: Annotated[
        str,
        typer.Option(
            help="open-llm: documents from the hub; local: documents from files.", rich_help_panel=_TASKS
        ),
    ] = "open-llm"
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks or groups, as --tasks arc_easy,gsm8k; all of the suite if absent.",
            rich_help_panel=_TASKS,
        ),
    ] = None
    benchmark_data: Annotated[
        Path | None, typer.Option(help="Folder with the files of the suite local.", rich_help_panel=_TASKS)
    ] = None
    include_path: Annotated[
        Path | None,
        typer.Option(
            help="Folder with further task files of lm-evaluation-harness; code that they name is run.",
            rich_help_panel=_TASKS,
        ),
    ] = None
    num_fewshot: Annotated[int, typer.Option(help="Examples in the prompt.", rich_help_panel=_TASKS)] = 0
    limit: Annotated[
        int | None, typer.Option(help="First documents of each task; all if absent.", rich_help_panel=_TASKS)
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the choice of examples.", rich_help_panel=_TASKS)] = 1234
    max_gen_tokens: Annotated[
        int | None,
        typer.Option(help="Longest generation, tokens; the task's if absent.", rich_help_panel=_TASKS),
    ] = None
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Prompts become messages, which the chat template writes.",
            rich_help_panel=_TASKS,
        ),
    ] = False

    def options(self) -> dict[str, Any]:
        """What was given; names that were written with commas between them one by one."""
        names = (name.strip() for names in self.tasks or () for name in names.split(","))
        return vars(self) | {"tasks": tuple(name for name in names if name)}


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("benchmarks")(grouped(benchmarks))


def benchmarks(
    model: Annotated[
        str, typer.Option(help="Local folder or hub id of a model or PEFT adapter.", rich_help_panel=MODELS)
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for benchmarks.json and finished tasks; the same call goes on there.",
            rich_help_panel=RESULT,
        ),
    ],
    tasks: Tasks,
    loading: Loading,
    result: Result,
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            "--reference",
            help="Model to compare with; an adapter's own base if absent.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Rows of a forward pass; memory and speed only.", rich_help_panel=MODELS)
    ] = 8,
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
        before=before,
        batch_size=batch_size,
        output=output,
        overwrite=result.overwrite,
        **tasks.options(),
        **vars(loading),
    )
    report = run_benchmarks(options, tell=teller())
    if result.json_only:
        typer.echo(report.to_json())
        return
    Console().print(benchmark_table(report))
    typer.echo(f"Written: {options.report_path}")
