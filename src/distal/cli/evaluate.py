"""`distal evaluate dominance`: does a model's reward distribution dominate?"""

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
    verbs = typer.Typer(no_args_is_help=True, help="Evaluate a model against its reference on preferences.")
    verbs.command("dominance")(grouped(dominance))
    app.add_typer(verbs, name="evaluate")


def dominance(  # noqa: PLR0913 - the parameters of a verb are its options
    scoring: Scoring,
    reading: Reading,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model that rewards are measured against; an adapter's own base if absent.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence of the intervals.", rich_help_panel=_RESULT)
    ] = 0.95,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.", rich_help_panel=_RESULT)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.", rich_help_panel=_RESULT)] = 0,
    json_only: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON document to stdout, and nothing else there.",
            rich_help_panel=_RESULT,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for dominance.json and reward_quantiles.png.", rich_help_panel=_RESULT),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file for the reward quantiles.", rich_help_panel=_RESULT)
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace existing files of those names.", rich_help_panel=_RESULT),
    ] = False,
) -> None:
    """Reward quantiles of preferred and other responses, and whether the former dominate.

    Rewards are log-ratios to the reference, in nats. Shows the violation ratio of first-order dominance with
    a bootstrap interval, the AUC and, for paired data, the share of pairs ranked right.
    """
    from rich.console import Console

    from distal.report import certificate_table
    from distal.workflow.certification import CertifyOptions, certificate_json, certify

    options = CertifyOptions(
        **vars(scoring),
        reference=reference,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        output=output,
        plot=plot,
        overwrite=overwrite,
        split=reading.split,
        reading=reading.options(),
    )
    notes = Console(stderr=True)
    certificate = certify(
        options, tell=lambda line: notes.print(line, highlight=False, markup=False, soft_wrap=True)
    )
    if json_only:
        typer.echo(certificate_json(certificate))
        return
    Console().print(certificate_table(certificate))
    for path in [p for p in (options.certificate_path, *options.figure_paths) if p is not None]:
        typer.echo(f"Written: {path}")
