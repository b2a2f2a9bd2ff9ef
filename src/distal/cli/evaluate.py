"""`distal evaluate dominance`: does a model's reward distribution dominate?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distal.cli import dominance_options as asked
from distal.cli import reading

__all__ = ["register"]

_MODELS, _DATA, _RESULT = "Models", "Data", "Result"


def register(app: typer.Typer) -> None:
    """Adds the verb to the application."""
    verbs = typer.Typer(no_args_is_help=True, help="Evaluate a model against its reference on preferences.")
    verbs.command("dominance")(dominance)
    app.add_typer(verbs, name="evaluate")


def dominance(  # noqa: PLR0913 - the parameters of a verb are its options
    model: asked.Models,
    data: Annotated[
        str,
        typer.Option(
            help="Preferences: .jsonl, .json, .csv (also .gz), .parquet, folder or hub id.",
            rich_help_panel=_DATA,
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model that rewards are measured against; an adapter's own base if absent.",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    split: reading.Split = None,
    format: reading.Format = None,
    map: reading.Map = None,
    chat: reading.Chat = False,
    from_grades: reading.FromGrades = None,
    grades: reading.Grades = None,
    grade_threshold: reading.GradeThreshold = None,
    grade_ties: reading.GradeTies = None,
    grade_margin: reading.GradeMargin = None,
    grade_seed: reading.GradeSeed = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer, if not the model's.", rich_help_panel=_MODELS)
    ] = None,
    chat_template: Annotated[str | None, typer.Option(help="Jinja file.", rich_help_panel=_MODELS)] = None,
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
    max_length: Annotated[int, typer.Option(help="Longest row, tokens.", rich_help_panel=_DATA)] = 1024,
    truncation: Annotated[
        str, typer.Option(help="drop, error, truncate_prompt or truncate_completion.", rich_help_panel=_DATA)
    ] = "drop",
    on_bad_rows: Annotated[
        str, typer.Option(help="drop (counted) or error.", rich_help_panel=_DATA)
    ] = "drop",
    tokens_per_batch: Annotated[
        int, typer.Option(help="Tokens per forward pass.", rich_help_panel=_DATA)
    ] = 8192,
    layout: Annotated[
        str, typer.Option(help="auto, padded, packed or prefix_shared; speed only.", rich_help_panel=_DATA)
    ] = "auto",
    order: asked.Order = 1,
    threshold: asked.Threshold = 0.25,
    slice_by: asked.SliceBy = None,
    length_controlled: asked.LengthControlled = False,
    compare: asked.Compare = False,
    by_prompt: asked.ByPrompt = True,
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
    a bootstrap interval and a test, the AUC and, for paired data, the share of pairs ranked right. Several models
    are measured on the same rows, and compared with each other if asked.
    """
    from rich.console import Console

    from distal.report import certificate_tables
    from distal.workflow.certification import CertifyOptions, certificate_json, certify, named_models
    from distal.workflow.reading import read_options

    options = CertifyOptions(
        models=named_models(model),
        data=data,
        reference=reference,
        split=split,
        tokenizer=tokenizer,
        chat_template=chat_template,
        dtype=dtype,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        max_length=max_length,
        truncation=truncation,
        on_bad_rows=on_bad_rows,
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        order=order,
        threshold=threshold,
        slice_by=tuple(slice_by or ()),
        length_controlled=length_controlled,
        compare=compare,
        by_prompt=by_prompt,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        output=output,
        plot=plot,
        overwrite=overwrite,
        reading=read_options(
            format=format,
            map=map,
            chat=chat,
            from_grades=from_grades,
            grades=grades,
            grade_threshold=grade_threshold,
            grade_ties=grade_ties,
            grade_margin=grade_margin,
            grade_seed=grade_seed,
        ),
    )
    notes = Console(stderr=True)
    certificate = certify(
        options, tell=lambda line: notes.print(line, highlight=False, markup=False, soft_wrap=True)
    )
    if json_only:
        typer.echo(certificate_json(certificate))
        return
    for table in certificate_tables(certificate):
        Console().print(table)
    for path in [p for p in (options.certificate_path, *options.figure_paths) if p is not None]:
        typer.echo(f"Written: {path}")
