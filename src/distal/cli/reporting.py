"""How errors reach the user: one message on stderr and an exit code, without a traceback.

Several processes at one run mostly fail alike. Then the first one speaks; the launcher sees it end and ends the
others, which wait for that with their own message. What gets through is what the first process cannot know.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from distal.errors import DistalError, OutputError

__all__ = ["ReportingGroup", "reported"]

EXIT_INTERRUPTED = 130
EXIT_OPTIONS = 2
EXIT_UNEXPECTED = 1

PATIENCE = 10.0
"""Seconds that a process waits for the launcher to end it before it speaks beside the first one."""


class ReportingGroup(TyperGroup):
    """The outermost group: whatever a verb raises passes through it."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the verb and reports what it raises."""
        # What transformers and PEFT deprecate between each other is no concern of the user.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        with reported(debug=bool(ctx.params.get("debug"))):
            try:
                return super().invoke(ctx)
            except typer.BadParameter as error:
                _name_value(error)
                raise


def _name_value(error: typer.BadParameter) -> None:
    """Adds what was given to a refusal of pydantic, through which typer reads options and which does not repeat it."""
    details = getattr(error.__cause__, "errors", None)
    found: Any = details(include_url=False) if callable(details) else []
    if found and "input" in found[0]:
        error.message += f"; got {found[0]['input']!r}"


@contextmanager
def reported(*, debug: bool) -> Generator[None]:
    """Turns errors that the user can mend, and interruptions, into a message and an exit code.

    Errors of our own pass through, with their traceback.

    Args:
        debug: whether the traceback is shown as well.
    """
    try:
        yield
    except DistalError as error:
        _say(str(error), debug)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        if _rank() == 0:
            _say(str(error) or "interrupted.", debug)
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" of {error.filename}" if error.filename else ""
        _say(f"no space left on the disk{place}; make room and start again.", debug)
        raise typer.Exit(OutputError.exit_code) from error
    except RuntimeError as error:
        if _lost_contact(error):
            time.sleep(2 * PATIENCE)  # whoever failed first has something better to say
            _say(f"lost contact with the other processes of this run ({str(error).splitlines()[0]}).", debug)
            raise typer.Exit(EXIT_UNEXPECTED) from error
        if type(error).__name__ != "OutOfMemoryError":  # torch's; importing torch here would slow down --help
            raise
        _say(
            "out of GPU memory. The result does not depend on how the batch is cut up: lower "
            "--tokens-per-micro-batch or --micro-batch-size, add --gradient-checkpointing, or load the "
            "model with --dtype bfloat16.",
            debug,
        )
        raise typer.Exit(EXIT_OPTIONS) from error


def _rank() -> int:
    """Which of several processes this is, as the launcher says; 0 for a process on its own."""
    return int(os.environ.get("RANK", "0"))


def _lost_contact(error: RuntimeError) -> bool:
    """Whether a collective operation failed, which is mostly because another process has."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or "gloo" in str(error)


def _say(message: str, debug: bool) -> None:
    """Prints a message to stderr, after the traceback if that is wanted; what it quotes cannot command the terminal."""
    from distal.report.text import printable

    name = "Error: "
    if _rank() > 0:
        time.sleep(PATIENCE)
        name = f"Error (process {_rank()} of {os.environ.get('WORLD_SIZE', '?')}, counted from 0): "
    if debug:
        traceback.print_exc()
    sys.stderr.flush()
    typer.echo(typer.style(name, fg="red", bold=True) + printable(message), err=True)
