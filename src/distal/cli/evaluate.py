"""`distal evaluate`, and its verb `dominance`: does a model's reward distribution dominate?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli import dominance_options as asked
from distal.cli import evaluate_benchmarks, evaluate_generate, evaluate_winrate
from distal.cli.grouping import grouped
from distal.cli.loading import MODELS, Loading
from distal.cli.reading import Reading
from distal.cli.results import RESULT, Resampling, Result, teller
from distal.cli.scoring import Scoring

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    verbs = typer.Typer(
        no_args_is_help=True, help="Evaluate a model: dominance, answers, win rates, benchmarks."
    )
    verbs.command("dominance")(grouped(dominance))
    evaluate_benchmarks.register(verbs)
    evaluate_generate.register(verbs)
    evaluate_winrate.register(verbs)
    app.add_typer(verbs, name="evaluate")


def dominance(  # noqa: PLR0913 - the parameters of a verb are its options
    model: asked.Models,
    loading: Loading,
    scoring: Scoring,
    reading: Reading,
    resampling: Resampling,
    result: Result,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model that rewards are measured against; an adapter's own base if absent.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    order: asked.Order = 1,
    threshold: asked.Threshold = 0.25,
    slice_by: asked.SliceBy = None,
    length_controlled: asked.LengthControlled = False,
    compare: asked.Compare = False,
    by_prompt: asked.ByPrompt = True,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for dominance.json and reward_quantiles.png.", rich_help_panel=RESULT),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG file for the reward quantiles.", rich_help_panel=RESULT)
    ] = None,
) -> None:
    """Reward quantiles of preferred and other responses, and whether the former dominate.

    Rewards are log-ratios to the reference, in nats. Shows the violation ratio of first-order dominance with
    a bootstrap interval and a test, the AUC and, for paired data, the share of pairs ranked right. Several models
    are measured on the same rows, and compared with each other if asked.
    """
    from rich.console import Console

    from distal.report import certificate_tables
    from distal.workflow.certification import CertifyOptions, certificate_json, certify, named_models

    options = CertifyOptions(
        models=named_models(model),
        **vars(loading),
        **vars(scoring),
        **vars(resampling),
        reference=reference,
        split=reading.split,
        order=order,
        threshold=threshold,
        slice_by=tuple(slice_by or ()),
        length_controlled=length_controlled,
        compare=compare,
        by_prompt=by_prompt,
        output=output,
        plot=plot,
        overwrite=result.overwrite,
        reading=reading.options(),
    )
    certificate = certify(options, tell=teller())
    if result.json_only:
        typer.echo(certificate_json(certificate))
        return
    for table in certificate_tables(certificate):
        Console().print(table)
    for path in [p for p in (options.certificate_path, *options.figure_paths) if p is not None]:
        typer.echo(f"Written: {path}")
