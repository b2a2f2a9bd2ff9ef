"""Messages about names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["check_choice", "nearest"]


def nearest(name: object, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one, and all of them.

    Examples:
        >>> nearest("hinje", ["hinge", "logistic"])
        "; did you mean 'hinge'? Known: hinge, logistic"
    """
    known = list(known)
    close = get_close_matches(str(name).lower(), known, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{suggestion} Known: {', '.join(known)}"


def check_choice(value: object, name: str, known: Iterable[str]) -> None:
    """Refuse a value that is none of the known names.

    Args:
        value: what was given.
        name: of the argument, for the message.
        known: the names it may have.

    Raises:
        ValueError: another name.
        TypeError: not a string.

    Examples:
        >>> check_choice("bootstap", "method", ["asymptotic", "bootstrap"])
        Traceback (most recent call last):
            ...
        ValueError: unknown method 'bootstap'; did you mean 'bootstrap'? Known: asymptotic, bootstrap
    """
    known = list(known)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(known)}, got {type(value).__name__}")
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}{nearest(value, known)}")
