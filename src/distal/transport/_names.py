"""Suggestions for names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one, and all of them.

    Example:
        >>> nearest("hinje", ["hinge", "logistic"])
        "; did you mean 'hinge'? Known: hinge, logistic"
    """
    known = list(known)
    close = get_close_matches(name.lower(), known, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{suggestion} Known: {', '.join(known)}"
