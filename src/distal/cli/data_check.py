"""`distal data check`: the truth about data before anything is spent on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.reading import READING, Reading

__all__ = ["register"]

_TOKENS, _RESULT = "Tokens", "Result"


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("check")(grouped(check))


def check(  # noqa: PLR0913 - the parameters of a verb are its options
    data: Annotated[
        str, typer.Argument(help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.")
    ],
    reading: Reading,
    eval_data: Annotated[
        list[str] | None,
        typer.Option(
            help="Held-out data whose prompts should not occur in DATA; may be repeated.",
            rich_help_panel=READING,
        ),
    ] = None,
    eval_split: Annotated[
        str | None,
        typer.Option(
            help="Split of the held-out data, or of DATA without --eval-data.",
            rich_help_panel=READING,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of the tokenizer or model; without it, texts alone are checked.",
            rich_help_panel=_TOKENS,
        ),
    ] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file.", rich_help_panel=_TOKENS)] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with the tokenizer.", rich_help_panel=_TOKENS
        ),
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(help="Longest row, tokens; 1024 if absent.", rich_help_panel=_TOKENS)
    ] = None,
    truncation: Annotated[
        str | None,
        typer.Option(help="drop, error, truncate_prompt or truncate_completion.", rich_help_panel=_TOKENS),
    ] = None,
    num_proc: Annotated[
        int | None, typer.Option(help="Processes that tokenise.", rich_help_panel=_TOKENS)
    ] = None,
    samples: Annotated[int, typer.Option(help="Completions to show.", rich_help_panel=_RESULT)] = 4,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings fail as errors do.", rich_help_panel=_RESULT)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON document to stdout, and nothing else there.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="HTML file for the report.", rich_help_panel=_RESULT)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing HTML file.", rich_help_panel=_RESULT)
    ] = False,
) -> None:
    """What a data set is, what becomes of its rows, and what is wrong with it.

    Exit code 0: usable; 3: not usable, or not without warnings where --strict is given.
    """
    from distal.errors import DataError
    from distal.workflow.data_verbs import CheckOptions, check_json
    from distal.workflow.data_verbs import check as check_data

    options = CheckOptions(
        data=data,
        split=reading.split,
        reading=reading.options(),
        eval_data=tuple(eval_data or ()),
        eval_split=eval_split,
        tokenizer=tokenizer,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
        max_length=max_length,
        truncation=truncation,
        num_proc=num_proc,
        samples=samples,
        html=html,
        overwrite=overwrite,
    )
    result = check_data(options)
    if as_json:
        typer.echo(check_json(result))
    else:
        from rich.console import Console

        from distal.report.data_terminal import check_view

        Console(highlight=False, soft_wrap=True).print(check_view(result))
        if html is not None:
            typer.echo(f"Written: {html}")
    passing = ("usable",) if strict else ("usable", "usable_with_warnings")
    if result.verdict not in passing:
        raise typer.Exit(DataError.exit_code)
