"""JSON as rows need it: a key that an object names twice is noticed, and nesting has an end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from distal.data.broken import DEEPEST
from distal.data.places import PlacedRow
from distal.data.reasons import RowProblem
from distal.data.values import deeper_than, shown_name

__all__ = ["Parser", "is_too_deep", "row_at"]


class _Repeating(dict[str, Any]):
    """An object that names a key twice."""

    key: str = ""


class Parser:
    """Reads JSON texts, one after the other.

    Attributes:
        repeats: whether an object of the last text names a key twice.

    Examples:
        >>> parse = Parser()
        >>> parse('{"a": 1, "a": 2}'), parse.repeats
        ({'a': 2}, True)
    """

    def __init__(self) -> None:
        self.repeats = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def __call__(self, text: str) -> Any:
        """The value that a text holds.

        Raises:
            ValueError: it is no JSON, or holds a number of thousands of digits.
            RecursionError: it is nested deeper than Python reads.
        """
        self.repeats = False
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("a byte-order mark", text, 0)
        return self._decoder.decode(text)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) == len(pairs):
            return made
        self.repeats = True
        seen: set[str] = set()
        repeating = _Repeating(made)
        repeating.key = next(key for key, _ in pairs if key in seen or seen.add(key))
        return repeating


def is_too_deep(value: object, text: bytes | None = None) -> bool:
    """Whether a value is nested more than `DEEPEST` levels deep; its text, where it is known, mostly tells at once."""
    if text is not None and text.count(b"[") + text.count(b"{") <= DEEPEST:
        return False
    return deeper_than(value, DEEPEST)


def row_at(row: Mapping[str, Any], line: int | None, *, repeats: bool) -> PlacedRow:
    """A row in its place; it cannot be used where an object of it names a key twice: which value is meant?

    Args:
        row: what was parsed.
        line: where, from 1; None where rows have no lines.
        repeats: whether there is such an object in the text.
    """
    made = PlacedRow(row)
    made.line = line
    key = _repeated_key(row) if repeats else None
    if key is not None:
        detail = f"an object names the key {shown_name(key)} twice"
        made.problem = RowProblem("repeated_key", detail, "keep one of them")
    return made


def _repeated_key(value: object) -> str | None:
    """The first key that an object inside a value names twice."""
    waiting: list[object] = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, _Repeating):
            return found.key
        if isinstance(found, dict):
            waiting.extend(cast(dict[str, object], found).values())
        elif isinstance(found, list):
            waiting.extend(cast(list[object], found))
    return None
