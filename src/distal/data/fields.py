"""Values of a row, checked one by one: texts, messages, labels, numbers; every refusal names the column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Text
from distal.data.values import describe_json_type

__all__ = ["extras", "label", "list_of", "mapping", "messages", "number", "string", "text", "value", "weight"]

Row = Mapping[str, Any]

USE_STRINGS = "give a string, or a list of messages with role and content"
_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_call": "assistant"}
"""Names that the ShareGPT layout gives to the roles of chat templates."""


def value(row: Row, column: str, remedy: str) -> Any:
    """What a column holds; a row without the column is refused."""
    if column not in row:
        raise RowProblem("bad_type", f"column {column} is absent; found {', '.join(map(str, row))}", remedy)
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
    # Arrow fills keys that only some messages have with null.
    found = {str(key): item for key, item in cast(Mapping[Any, Any], turn).items() if item is not None}
    if found.get("tool_calls") and content not in found:
        found[content] = ""
    for key in (role, content):
        item = found.get(key)
        if not isinstance(item, str):
            shown = describe_json_type(item) if key in found else f"absent from keys {sorted(found)}"
            raise RowProblem("bad_type", f"{where}.{key} is {shown}, not a string", USE_STRINGS)
        encodable(item, f"{where}.{key}")
    if (role, content) == ("role", "content"):
        return found
    named = {"role": _ROLES.get(found[role], found[role]), "content": found[content]}
    return named | {key: item for key, item in found.items() if key not in (role, content)}


def label(row: Row, column: str = "label") -> bool:
    """True or false; 1 and 0 count. Floats, strings and null are refused rather than guessed at."""
    found = row.get(column)
    if isinstance(found, (int, np.integer, np.bool_)) and found in (0, 1):
        return bool(found)
    shown = describe_json_type(found) if column in row else "absent"
    raise RowProblem("bad_label", f"{column} is {shown}", "use true or false (1 or 0)")


def number(row: Row, column: str, where: str | None = None) -> float:
    """A finite number, or a string that is one."""
    found = value(row, column, "give a number")
    try:
        result = float("nan") if isinstance(found, bool) else float(found)
    except (TypeError, ValueError, OverflowError):
        result = float("nan")
    if not math.isfinite(result):
        raise RowProblem(
            "bad_grade", f"{where or column} is {describe_json_type(found)}", "give a finite number"
        )
    return result


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
        found["tools"] = _without_nulls(tools)
    options = _from_json(row.get("chat_template_kwargs"), "chat_template_kwargs")
    if options is not None:
        found["template_options"] = _without_nulls(dict(mapping(options, "chat_template_kwargs")))
    return found


def weight(row: Row) -> dict[str, float]:
    """How much a row counts, as an argument of `Preference`; nothing where it does not say."""
    if row.get("weight") is None:
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
            "bad_type", f"{column} is a string that is no JSON ({item[:40]!r})", "give a list or valid JSON"
        ) from error


def _without_nulls(item: Any) -> Any:
    """Arrow gives every object the keys of all others, filled with null."""
    if isinstance(item, Mapping):
        return {key: _without_nulls(value) for key, value in item.items() if value is not None}
    return [_without_nulls(part) for part in cast(list[Any], item)] if isinstance(item, list) else item


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
