"""Options that all verbs share which read preferences: the format, its columns, and what grades become."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from distal.data import ReadOptions

__all__ = ["GRADES", "READING", "Reading"]

READING, GRADES = "Reading", "Grades"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How preferences are read; a parameter of verbs that are `grouped`."""

    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Split of the data, where it has several; train if absent.",
            rich_help_panel=READING,
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of the rows, see `distal data formats`; recognised if absent.",
            rich_help_panel=READING,
        ),
    ] = None
    map: Annotated[
        list[str] | None,
        typer.Option(
            help="Names of columns: --map prompt=question --map chosen=good, or all in quotes.",
            rich_help_panel=READING,
        ),
    ] = None
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Plain strings become messages, which the chat template writes.",
            rich_help_panel=READING,
        ),
    ] = False
    from_grades: Annotated[
        str | None,
        typer.Option(
            help="What graded answers become: threshold (unpaired), best_worst, best_random or all_pairs (pairs).",
            rich_help_panel=GRADES,
        ),
    ] = None
    grades: Annotated[
        list[str] | None,
        typer.Option(
            help="Attributes that count, with weights: --grades 'helpfulness=1 verbosity=-0.5'.",
            rich_help_panel=GRADES,
        ),
    ] = None
    grade_threshold: Annotated[
        str | None,
        typer.Option(
            help="median, prompt_median or a grade; answers above it are liked.", rich_help_panel=GRADES
        ),
    ] = None
    grade_ties: Annotated[
        str | None,
        typer.Option(
            help="What answers at the threshold are: drop, liked or disliked.", rich_help_panel=GRADES
        ),
    ] = None
    grade_margin: Annotated[
        float | None, typer.Option(help="Least difference of the grades of a pair.", rich_help_panel=GRADES)
    ] = None
    grade_seed: Annotated[int | None, typer.Option(help="Seed of best_random.", rich_help_panel=GRADES)] = (
        None
    )

    def options(self, **more: Any) -> ReadOptions:
        """What was given, checked; without the split, which names a part of the data.

        Args:
            **more: further options of `distal.workflow.reading.read_options` that the verb has.
        """
        from distal.workflow.reading import read_options

        given = asdict(self)
        del given["split"]
        return read_options(**given, **more)
