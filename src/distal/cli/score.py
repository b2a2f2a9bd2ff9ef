"""`distal score`: scores of a model for every row of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli.grouping import grouped
from distal.cli.reading import Reading
from distal.cli.scoring import MODELS, Scoring

__all__ = ["register"]

_RESULT = "Result"


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    app.command("score")(grouped(score))


def score(  # noqa: PLR0913 - the parameters of a verb are its options
    model: Annotated[
        str, typer.Option(help="Local folder or hub id of a model or PEFT adapter.", rich_help_panel=MODELS)
    ],
    scoring: Scoring,
    reading: Reading,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Parquet file to write.", rich_help_panel=_RESULT)
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
        typer.Option("--per-token", help="Add the mean score of a token.", rich_help_panel=_RESULT),
    ] = False,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the cache; DISTAL_CACHE if absent.", rich_help_panel=_RESULT),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.", rich_help_panel=_RESULT)
    ] = False,
    json_only: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON document to stdout, and nothing else there.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
) -> None:
    """Score every completion of a data set: summed log-probability given its prompt, nats.

    Scores go through the cache, shard by shard: what was scored before is read, and a run that was interrupted
    goes on where it was. The file has one row for each completion.
    """
    from rich.console import Console

    from distal.workflow.scores import ScoreOptions, score_file, summary_json

    options = ScoreOptions(
        model=model,
        **vars(scoring),
        split=reading.split,
        reading=reading.options(),
        output=output,
        reference=reference,
        revision=revision,
        reference_revision=reference_revision,
        per_token=per_token,
        cache_dir=cache_dir,
        overwrite=overwrite,
    )
    notes = Console(stderr=True)

    def tell(line: str) -> None:
        notes.print(line, highlight=False, markup=False, soft_wrap=True)

    summary = score_file(options, tell=tell, warn=tell)
    if summary is None:
        return
    if json_only:
        typer.echo(summary_json(summary))
        return
    for line in summary.lines():
        typer.echo(line)
    typer.echo(f"Written: {output}")
