"""`distal evaluate winrate`: how often a judge prefers a model's answers to a baseline's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.results import RESULT, Resampling, Result, teller
from distal.cli.serving import SERVER, Serving

__all__ = ["register"]

_ANSWERS, _JUDGE = "Answers", "Judge"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Who judges, and how. Named as in `WinRateOptions`."""

    judge: Annotated[
        str,
        typer.Option(help="server, alpaca-eval, reward-model or function.", rich_help_panel=_JUDGE),
    ]
    judge_model: Annotated[
        str | None,
        typer.Option(
            help="Name of the served model; folder or hub id of the reward model.", rich_help_panel=_JUDGE
        ),
    ] = None
    prompt: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt that holds {instruction}, {output_a} and {output_b}, or Jinja.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    answer_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose group is A, B or TIE; if absent, the reply is that word alone.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    annotators: Annotated[
        str | None,
        typer.Option(help="Configuration of alpaca-eval, by name, folder or file.", rich_help_panel=_JUDGE),
    ] = None
    function: Annotated[
        str | None,
        typer.Option(
            help="length, regex:PATTERN or module:function, called with prompt and answer.",
            rich_help_panel=_JUDGE,
        ),
    ] = None
    orders: Annotated[
        str,
        typer.Option(
            help="both, model_first or baseline_first: the order in which answers are shown.",
            rich_help_panel=_JUDGE,
        ),
    ] = "both"
    temperature: Annotated[float, typer.Option(help="Of a served judge.", rich_help_panel=_JUDGE)] = 0.0
    judge_max_tokens: Annotated[
        int, typer.Option(help="Longest reply of a served judge, tokens.", rich_help_panel=_JUDGE)
    ] = 1024
    malformed_retries: Annotated[
        int,
        typer.Option(help="Reminders to a served judge that gives no verdict.", rich_help_panel=_JUDGE),
    ] = 2
    request: Annotated[
        str | None,
        typer.Option(
            help="Further fields of each request as JSON; null leaves one out: '{\"max_tokens\": null}'.",
            rich_help_panel=SERVER,
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(help="Answers per forward pass of a reward model.", rich_help_panel=_JUDGE)
    ] = 8
    dtype: Annotated[str, typer.Option(help="Of a reward model's weights.", rich_help_panel=_JUDGE)] = (
        "float32"
    )
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with a reward model.", rich_help_panel=_JUDGE
        ),
    ] = False


def register(app: typer.Typer) -> None:
    """Adds the verb to the group."""
    app.command("winrate")(grouped(winrate))


def winrate(
    outputs: Annotated[
        Path,
        typer.Option(
            help="Answers of the model: JSON as `distal evaluate generate` writes it.",
            rich_help_panel=_ANSWERS,
        ),
    ],
    baseline: Annotated[
        Path,
        typer.Option(help="Answers to compare with, to the same prompts.", rich_help_panel=_ANSWERS),
    ],
    judging: Judging,
    serving: Serving,
    resampling: Resampling,
    result: Result,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the judgements made so far; Distal's cache if absent.", rich_help_panel=RESULT
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for winrate.json and judgements.jsonl.", rich_help_panel=RESULT
        ),
    ] = None,
) -> None:
    """How often a judge prefers a model's answers to a baseline's, ties counting half, with a bootstrap interval.

    A judge that is shown both answers sees them in both orders. Every judgement is kept as soon as it is made: when
    the same command is given again, after Ctrl-C or a failure, nothing is asked twice.
    """
    from rich.console import Console

    from distal.evaluation.judging import Bootstrap
    from distal.report.winrates import win_rate_table
    from distal.workflow.winrates import WinRateOptions, evaluate_win_rate, win_rate_json

    options = WinRateOptions(
        outputs=outputs,
        baseline=baseline,
        cache_dir=cache_dir,
        output=output,
        overwrite=result.overwrite,
        bootstrap=Bootstrap(**vars(resampling)),
        **vars(judging),
        **serving.options(),
    )
    record = evaluate_win_rate(options, tell=teller())
    if result.json_only:
        typer.echo(win_rate_json(record))
        return
    Console().print(win_rate_table(record))
    for path in (options.result_path, options.judgements_path):
        if path is not None:
            typer.echo(f"Written: {path}")
