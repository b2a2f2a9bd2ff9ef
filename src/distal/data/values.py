"""Values of JSON in the words of messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

__all__ = ["deeper_than", "describe_json_type", "listed", "shown_name"]

_JSON_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "number"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)
_SHOWN = 60
_LEVELS = 3
_MEMBERS = 4
_NAMES = 20
_LONG_NUMBER = 256
"""Bits of a whole number that is still written out."""


def describe_json_type(value: object) -> str:
    """Name the type of a JSON value in JSON's own words, with a short excerpt.

    Examples:
        >>> describe_json_type(None), describe_json_type(3), describe_json_type(["a"])
        ('null', 'number 3', "array ['a']")
    """
    if value is None:
        return "null"
    name = next((word for kind, word in _JSON_TYPES if isinstance(value, kind)), type(value).__name__)
    return f"{name} {_cut(_excerpt(value, _LEVELS))}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _excerpt(value: object, levels: int) -> str:
    """The beginning of a value as Python writes it, however large or deep the value is."""
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= _SHOWN else repr(value[:_SHOWN])[:_SHOWN] + "..."
    if isinstance(value, int) and value.bit_length() > _LONG_NUMBER:
        return f"of {value.bit_length()} bits"
    if isinstance(value, Mapping):
        items = list(cast(Mapping[Any, Any], value).items())
        parts = [f"{_excerpt(key, 0)}: {_inner(item, levels)}" for key, item in items[:_MEMBERS]]
        return "{" + ", ".join(parts) + (", ...}" if len(items) > _MEMBERS else "}")
    if isinstance(value, (list, tuple)):
        members = cast("list[Any] | tuple[Any, ...]", value)
        parts = [_inner(item, levels) for item in members[:_MEMBERS]]
        return "[" + ", ".join(parts) + (", ...]" if len(members) > _MEMBERS else "]")
    return repr(value)


def _inner(value: object, levels: int) -> str:
    is_nested = isinstance(value, (Mapping, list, tuple))
    return "..." if is_nested and levels <= 1 else _excerpt(value, levels - 1)


def shown_name(name: object) -> str:
    r"""A name from a file as a message may hold it: cut, and quoted where it holds what cannot be printed.

    Examples:
        >>> shown_name("prompt"), shown_name("a\x1b[31m")
        ('prompt', "'a\\x1b[31m'")
    """
    text = name if isinstance(name, str) else repr(name)
    return _cut(text if text.isprintable() else repr(text[:_SHOWN]))


def listed(names: Iterable[object]) -> str:
    """Names from a file, for a message; "none" where there are none.

    Examples:
        >>> listed(["prompt", "label"]), listed([])
        ('prompt, label', 'none')
    """
    found = list(names)
    more = f" and {len(found) - _NAMES} more" if len(found) > _NAMES else ""
    return ", ".join(map(shown_name, found[:_NAMES])) + more if found else "none"


def deeper_than(value: object, levels: int) -> bool:
    """Whether objects and arrays stand inside each other more than so many levels deep.

    Examples:
        >>> deeper_than({"a": [1]}, 2), deeper_than({"a": [[1]]}, 2)
        (False, True)
    """
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (
                cast(dict[Any, Any], outer).values() if isinstance(outer, dict) else cast(list[Any], outer)
            )
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            break
    return bool(layer)
