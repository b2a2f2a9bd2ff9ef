"""Warnings of Distal's own as lines of the report, without the place in the sources that Python adds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["warnings_as_notes"]

_OWN = "global_batch_size="
"""How the warnings begin that are meant for whoever chose the options."""


@contextmanager
def warnings_as_notes(tell: Callable[[str], None]) -> Generator[None]:
    """Tells each warning of Distal's own once, as a line; those of libraries stay what they are.

    Args:
        tell: called with the line.

    Examples:
        >>> with warnings_as_notes(print):
        ...     for _ in range(2):
        ...         warnings.warn("global_batch_size=64 is larger than the data set")
        note: global_batch_size=64 is larger than the data set
    """
    told: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_OWN, category=UserWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text = str(message)
            if category is not UserWarning or not text.startswith(_OWN):
                others(message, category, filename, lineno, file, line)
            elif text not in told:
                told.add(text)
                tell(f"note: {text}")

        warnings.showwarning = show
        yield
