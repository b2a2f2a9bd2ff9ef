"""Suggestions for options and values that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

__all__ = ["nearest"]


def nearest(word: object, known: Sequence[str]) -> str:
    """`; did you mean ...?` and the choices, to end an error message with."""
    close = difflib.get_close_matches(str(word), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Choices: {', '.join(known)}"
