"""`distal data check`: the truth about data before anything is spent on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.reading import READING, Reading
from distal.cli.results import RESULT, Result

__all__ = ["register"]

_TOKENS = "Tokens"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """How texts become tokens, where they do. Named as in `CheckOptions`."""

    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of the tokenizer or model; without it, texts alone are checked.",
            rich_help_panel=_TOKENS,
        ),
    ] = None
    chat_template: Annotated[str | None, typer.Option(help="Jinja file.", rich_help_panel=_TOKENS)] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with the tokenizer.", rich_help_panel=_TOKENS
        ),
    ] = False
    max_length: Annotated[
        int | None, typer.Option(help="Longest row, tokens; 1024 if absent.", rich_help_panel=_TOKENS)
    ] = None
    truncation: Annotated[
        str | None,
        typer.Option(help="drop, error, truncate_prompt or truncate_completion.", rich_help_panel=_TOKENS),
    ] = None
    loss_on: Annotated[
        str | None,
        typer.Option(
            help="What is scored: completion, last_turn or assistant_turns.", rich_help_panel=_TOKENS
        ),
    ] = None
    num_proc: Annotated[
        int | None, typer.Option(help="Processes that tokenise.", rich_help_panel=_TOKENS)
    ] = None


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("check")(grouped(check))


def check(  # noqa: PLR0913 - the parameters of a verb are its options
    data: Annotated[
        str, typer.Argument(help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.")
    ],
    reading: Reading,
    tokens: Tokens,
    result: Result,
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
    samples: Annotated[int, typer.Option(help="Completions to show.", rich_help_panel=RESULT)] = 4,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings fail as errors do.", rich_help_panel=RESULT)
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="HTML file for the report.", rich_help_panel=RESULT)
    ] = None,
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
        **vars(tokens),
        samples=samples,
        html=html,
        overwrite=result.overwrite,
    )
    found = check_data(options)
    if result.json_only:
        typer.echo(check_json(found))
    else:
        from rich.console import Console

        from distal.report.data_terminal import check_view

        Console(highlight=False, soft_wrap=True).print(check_view(found))
        if html is not None:
            typer.echo(f"Written: {html}")
    passing = ("usable",) if strict else ("usable", "usable_with_warnings")
    if found.verdict not in passing:
        raise typer.Exit(DataError.exit_code)
