"""What `distal report` does: from the folders of runs to one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distal.errors import ConfigError, OutputError
from distal.evaluation.files import write_atomically
from distal.report.page import Problem, page_html, read_runs, statements

__all__ = ["ReportOptions", "RunReport", "report"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What `distal report` can be told.

    Attributes:
        runs: folders of runs.
        output: HTML file to write; None for none.
        title: of the page; None for the names of the runs.
        overwrite: whether the file may be replaced.
    """

    runs: Sequence[str | Path]
    output: Path | None = None
    title: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.output is None and (self.overwrite or self.title is not None):
            raise ConfigError("overwrite and title have no effect without output; leave them out")


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What a report states, and what it could not read.

    Attributes:
        statements: the content in short, for machines.
        problems: files that are on the page in part or not at all, with the name of their run.
        size: of the page, bytes; None where none was written.
    """

    statements: dict[str, Any]
    problems: tuple[tuple[str, Problem], ...]
    size: int | None


def report(options: ReportOptions) -> RunReport:
    """Reads runs and writes the page about them.

    Raises:
        DistalError: no folder is a run, one is given twice, or the page cannot be written.
    """
    output = options.output
    if output is not None:
        if output.is_dir():
            raise OutputError(f"{output} is a folder; name an HTML file, such as {output / 'report.html'}")
        if output.exists() and not options.overwrite:
            raise OutputError(
                f"{output} exists already; nothing was touched. Name another place, or add --overwrite."
            )
    runs = read_runs(options.runs)
    size = None
    if output is not None:
        made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        content = page_html(runs, title=options.title, made=made).encode("utf-8", "replace")
        write_atomically(output, content)
        size = len(content)
    problems = tuple((run.name, problem) for run in runs for problem in run.problems)
    return RunReport(statements=statements(runs), problems=problems, size=size)
