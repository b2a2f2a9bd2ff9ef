"""Options that all verbs share which read preferences: the format, its columns, and what grades become."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Chat",
    "Format",
    "FromGrades",
    "GradeMargin",
    "GradeSeed",
    "GradeThreshold",
    "GradeTies",
    "Grades",
    "Map",
    "Split",
]

READING, GRADES = "Reading", "Grades"

Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Split of the data, where it has several; train if absent.", rich_help_panel=READING
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        help="Format of the rows, see `distal data formats`; recognised if absent.", rich_help_panel=READING
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        help="Names of columns: --map prompt=question --map chosen=good, or all in quotes.",
        rich_help_panel=READING,
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat",
        help="Plain strings become messages, which the chat template writes.",
        rich_help_panel=READING,
    ),
]
FromGrades = Annotated[
    str | None,
    typer.Option(
        help="What graded answers become: threshold (unpaired), best_worst, best_random or all_pairs (pairs).",
        rich_help_panel=GRADES,
    ),
]
Grades = Annotated[
    list[str] | None,
    typer.Option(
        help="Attributes that count, with weights: --grades 'helpfulness=1 verbosity=-0.5'.",
        rich_help_panel=GRADES,
    ),
]
GradeThreshold = Annotated[
    str | None,
    typer.Option(
        help="median, prompt_median or a grade; answers above it are liked.", rich_help_panel=GRADES
    ),
]
GradeTies = Annotated[
    str | None,
    typer.Option(help="What answers at the threshold are: drop, liked or disliked.", rich_help_panel=GRADES),
]
GradeMargin = Annotated[
    float | None, typer.Option(help="Least difference of the grades of a pair.", rich_help_panel=GRADES)
]
GradeSeed = Annotated[int | None, typer.Option(help="Seed of best_random.", rich_help_panel=GRADES)]
