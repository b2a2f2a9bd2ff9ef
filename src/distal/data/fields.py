"""Values of a row, checked one by one: texts, messages, labels, numbers; every refusal names the column."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import numpy as np

from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Text
from distal.data.values import describe_json_type, listed, shown_name

__all__ = [
    "choice",
    "encodable",
    "extras",
    "label",
    "list_of",
    "mapping",
    "message",
    "messages",
    "number",
    "string",
    "text",
    "value",
    "weight",
]

Row = Mapping[str, Any]

USE_STRINGS = "give a string, or a list of messages with role and content"
_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}
"""Names that the ShareGPT layout gives to the roles of chat templates."""

_DEEPEST = 32
"""Levels inside a tool, or inside what a message holds beside its content."""

_LONGEST_NUMBER = 10_000
"""Bits of a whole number; Python writes none of more than 4300 digits."""


def value(row: Row, column: str, remedy: str) -> Any:
    """What a column holds; a row without the column is refused."""
    if column not in row:
        raise RowProblem("bad_type", f"column {column} is absent; found {listed(row)}", remedy)
    return row[column]


def string(row: Row, column: str, where: str | None = None) -> str:
    """The string in a column."""
    found = value(row, column, "give a string")
    if not isinstance(found, str):
        raise RowProblem(
            "bad_type", f"{where or f'column {column}'} is {describe_json_type(found)}", "give a string"
        )
    return encodable(found, where or column)


def text(row: Row, column: str) -> Text:
    """The string or the messages in a column."""
    found = value(row, column, USE_STRINGS)
    if isinstance(found, str):
        return encodable(found, column)
    if isinstance(found, list):
        return messages(row, column)
    raise RowProblem("bad_type", f"column {column} is {describe_json_type(found)}", USE_STRINGS)


def messages(row: Row, column: str, role: str = "role", content: str = "content") -> Conversation:
    """The messages in a column.

    Args:
        row: the row.
        column: name of the column.
        role: key of a message that names who speaks.
        content: key of a message that holds what is said.
    """
    return [
        message(turn, f"{column}[{index}]", role, content)
        for index, turn in enumerate(list_of(row, column, "messages"))
    ]


def message(turn: object, where: str, role: str = "role", content: str = "content") -> dict[str, Any]:
    """One message with `role` and `content`, and whatever else it holds."""
    if not isinstance(turn, Mapping):
        raise RowProblem("bad_type", f"{where} is {describe_json_type(turn)}, not a message", USE_STRINGS)
    # Arrow fills keys that only some messages have with null, pandas with NaN.
    found = {str(key): item for key, item in cast(Mapping[Any, Any], turn).items() if not _is_missing(item)}
    if found.get("tool_calls"):
        found["tool_calls"] = _plain(found["tool_calls"], f"tool_calls of {where}", without_nulls=True)
        found.setdefault(content, "")
    for key in (role, content):
        item = found.get(key)
        if not isinstance(item, str):
            shown = describe_json_type(item) if key in found else _absent(turn, key, found)
            remedy = (
                "join its parts into one string: only text is used" if isinstance(item, list) else USE_STRINGS
            )
            raise RowProblem("bad_type", f"{where}.{key} is {shown}, not a string", remedy)
    found = {
        key: _plain(item, f"{where}.{shown_name(key)}", without_nulls=key == "tool_calls")
        for key, item in found.items()
    }
    if (role, content) == ("role", "content"):
        return found
    named = {"role": _ROLES.get(found[role], found[role]), "content": found[content]}
    return named | {key: item for key, item in found.items() if key not in (role, content)}


def _absent(turn: Mapping[Any, Any], key: str, found: Mapping[str, Any]) -> str:
    return "null" if key in turn else f"absent from the keys {listed(sorted(found))}"


def label(row: Row, column: str = "label") -> bool:
    """True or false; 1 and 0 count. Floats, strings and null are refused rather than guessed at."""
    found = row.get(column)
    if isinstance(found, (int, np.integer, np.bool_)) and found in (0, 1):
        return bool(found)
    shown = describe_json_type(found) if column in row else "absent"
    raise RowProblem("bad_label", f"{column} is {shown}", "use true or false (1 or 0)")


def number(
    row: Row, column: str, where: str | None = None, scale: tuple[float, float] | None = None
) -> float:
    """A finite number, or a string that is one.

    Args:
        row: the row, or an object inside it.
        column: name of the column, or key.
        where: for messages; the column by default.
        scale: least and largest number of the scale; what lies outside mostly stands for a missing grade.
    """
    found = value(row, column, "give a number")
    is_number = isinstance(found, (int, float, Decimal, np.number)) and not isinstance(found, bool)
    is_number |= isinstance(found, str) and "_" not in found  # Python would read 1_000
    try:
        result = float(found) if is_number else math.nan
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise RowProblem(
            "bad_grade", f"{where or column} is {describe_json_type(found)}", "give a finite number"
        )
    if scale is not None and not scale[0] <= result <= scale[1]:
        raise RowProblem(
            "bad_grade",
            f"{where or column} is {describe_json_type(found)}, outside the scale from {scale[0]:g} to {scale[1]:g}",
            "mend it, leave the row out, or name a format without a scale (graded)",
        )
    return result


def choice(row: Row, column: str) -> int:
    """Which of two answers is meant, 0 or 1; floats, strings, booleans and null are refused rather than guessed at."""
    found = row.get(column)
    if isinstance(found, (int, np.integer)) and not isinstance(found, bool) and found in (0, 1):
        return int(found)
    shown = describe_json_type(found) if column in row else "absent"
    raise RowProblem("bad_label", f"{column} is {shown}", "give 0 or 1, the number of the better answer")


def list_of(row: Row, column: str, what: str) -> list[Any]:
    """The list in a column."""
    found = value(row, column, f"give a list of {what}")
    if not isinstance(found, list):
        raise RowProblem(
            "bad_type", f"column {column} is {describe_json_type(found)}", f"give a list of {what}"
        )
    return cast(list[Any], found)


def mapping(item: object, where: str) -> Row:
    """An object inside a row."""
    if not isinstance(item, Mapping):
        raise RowProblem("bad_type", f"{where} is {describe_json_type(item)}", "give an object")
    return cast(Row, item)


def extras(row: Row) -> dict[str, Any]:
    """Tools and template options of a row, as arguments of `Preference`; strings are read as JSON."""
    found: dict[str, Any] = {}
    tools = _from_json(row.get("tools"), "tools")
    if tools is not None and tools != []:
        if not isinstance(tools, list):
            raise RowProblem("bad_type", f"tools is {describe_json_type(tools)}", "give a list of schemas")
        found["tools"] = _plain(tools, "tools", without_nulls=True)
    options = _from_json(row.get("chat_template_kwargs"), "chat_template_kwargs")
    if options is not None:
        where = "chat_template_kwargs"
        found["template_options"] = _plain(dict(mapping(options, where)), where, without_nulls=True)
    return found


def weight(row: Row) -> dict[str, float]:
    """How much a row counts, as an argument of `Preference`; nothing where it does not say, as in an empty cell."""
    said = row.get("weight")
    if said is None or (isinstance(said, str) and not said.strip()):
        return {}
    try:
        found = number(row, "weight")
    except RowProblem:
        found = -1.0
    if found == 0:
        raise RowProblem("zero_weight", "weight is 0", "remove the row, or give it a positive weight")
    if found < 0:
        raise RowProblem(
            "bad_weight", f"weight is {describe_json_type(row['weight'])}", "give a positive number, or none"
        )
    return {"weight": found}


def _from_json(item: Any, column: str) -> Any:
    if not isinstance(item, str) or not item.strip():
        return None if isinstance(item, str) else item
    try:
        return json.loads(item)
    except (ValueError, RecursionError) as error:
        raise RowProblem(
            "bad_type", f"{column} is a string that is no JSON ({item[:40]!r})", "give a list, or valid JSON"
        ) from error


def _is_missing(item: object) -> bool:
    return item is None or (isinstance(item, float) and math.isnan(item))


def _plain(item: Any, where: str, *, without_nulls: bool = False, level: int = 0) -> Any:
    """A value as JSON and chat templates can hold it; times of tables become strings.

    Args:
        item: the value.
        where: for messages.
        without_nulls: whether keys without a value go: Arrow gives every object the keys of all others.
        level: how deep the value stands.
    """
    if isinstance(item, str):
        return encodable(item, where)
    if item is None or isinstance(item, bool):
        return item
    if isinstance(item, (Mapping, list)) and level >= _DEEPEST:
        raise RowProblem("bad_type", f"{where} is nested more than {_DEEPEST} levels deep", "flatten it")
    if isinstance(item, Mapping):
        members = {encodable(str(key), where): inner for key, inner in cast(Mapping[Any, Any], item).items()}
        return {
            key: _plain(inner, where, without_nulls=without_nulls, level=level + 1)
            for key, inner in members.items()
            if not (without_nulls and _is_missing(inner))
        }
    if isinstance(item, list):
        parts = cast(list[Any], item)
        return [_plain(part, where, without_nulls=without_nulls, level=level + 1) for part in parts]
    if isinstance(item, (datetime.date, datetime.time)):
        return item.isoformat()
    number = float(item) if isinstance(item, (Decimal, np.floating)) else item
    is_finite = isinstance(number, float) and math.isfinite(number)
    if is_finite or (isinstance(number, int) and number.bit_length() <= _LONGEST_NUMBER):
        return number
    raise RowProblem(
        "bad_type",
        f"{where} holds {describe_json_type(item)}, which JSON cannot",
        "give text, finite numbers, lists and objects",
    )


def encodable(found: str, where: str) -> str:
    """The string itself, if it is Unicode text."""
    try:
        found.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem(
            "bad_type",
            f"{where} holds half a surrogate pair at character {error.start}, which is no Unicode text",
            "mend the escape in the file",
        ) from error
    return found
