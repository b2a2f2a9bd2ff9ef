"""Values of JSON in the words of messages."""

from __future__ import annotations

__all__ = ["describe_json_type"]

_JSON_TYPES = {
    "bool": "boolean",
    "int": "number",
    "float": "number",
    "str": "string",
    "list": "array",
    "dict": "object",
}
_SHOWN = 60


def describe_json_type(value: object) -> str:
    """Name the type of a JSON value in JSON's own words, with a short excerpt.

    Example:
        >>> describe_json_type(None), describe_json_type(3), describe_json_type(["a"])
        ('null', 'number 3', "array ['a']")
    """
    if value is None:
        return "null"
    name = _JSON_TYPES.get(type(value).__name__, type(value).__name__)
    shown = repr(value)
    return f"{name} {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}"
