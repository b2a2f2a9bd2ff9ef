"""`distal score`: scores of a model for every row of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.loading import MODELS, Loading
from distal.cli.reading import Reading
from distal.cli.results import RESULT, Result, teller
from distal.cli.scoring import Scoring

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command("score")(grouped(score))


def score(  # noqa: PLR0913 - the parameters of a verb are its options
    model: Annotated[
        str, typer.Option(help="Local folder or hub id of a model or PEFT adapter.", rich_help_panel=MODELS)
    ],
    loading: Loading,
    scoring: Scoring,
    reading: Reading,
    result: Result,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Parquet file to write.", rich_help_panel=RESULT)
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model whose scores are subtracted: adds reference_score and reward.", rich_help_panel=MODELS
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Hub revision of the model.", rich_help_panel=MODELS)
    ] = None,
    reference_revision: Annotated[
        str | None, typer.Option(help="Hub revision of the reference.", rich_help_panel=MODELS)
    ] = None,
    per_token: Annotated[
        bool,
        typer.Option("--per-token", help="Add the mean score of a token.", rich_help_panel=RESULT),
    ] = False,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the cache; DISTAL_CACHE if absent.", rich_help_panel=RESULT),
    ] = None,
) -> None:
    """Score every completion of a data set: summed log-probability given its prompt, nats.

    Scores go through the cache, shard by shard: what was scored before is read, and a run that was interrupted
    goes on where it was. The file has one row for each completion.
    """
    from distal.workflow.scores import ScoreOptions, score_file, summary_json

    options = ScoreOptions(
        model=model,
        **vars(loading),
        **vars(scoring),
        split=reading.split,
        reading=reading.options(),
        output=output,
        reference=reference,
        revision=revision,
        reference_revision=reference_revision,
        per_token=per_token,
        cache_dir=cache_dir,
        overwrite=result.overwrite,
    )
    tell = teller()
    summary = score_file(options, tell=tell, warn=tell)
    if summary is None:
        return
    if result.json_only:
        typer.echo(summary_json(summary))
        return
    for line in summary.lines():
        typer.echo(line)
    typer.echo(f"Written: {output}")
