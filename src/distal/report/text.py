"""Texts of strangers, made safe to show."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""A text whose control characters are written out: a terminal would obey them, and a page may not hold them.

    Examples:
        >>> printable("a\x1b[2J\nb")
        'a\\x1b[2J\nb'
    """
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)
