"""Preferences as rows of TRL's columns, and what of them a table can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distal.data.schemas import Preference
from distal.errors import DataError

__all__ = ["OPTIONAL_COLUMNS", "check_for_table", "trl_row"]

OPTIONAL_COLUMNS = ("tools", "chat_template_kwargs", "weight")
"""Columns that some rows have and others do not."""

_MESSAGE = {"role", "content"}


def trl_row(row: Preference) -> dict[str, Any]:
    """The columns of a preference: prompt, chosen, rejected, or prompt, completion, label.

    `tools` and `chat_template_kwargs` follow where the row has them, and `weight` where it has grades that count.

    Examples:
        >>> trl_row(Preference("p", ("good", "bad"), (True, False)))
        {'prompt': 'p', 'chosen': 'good', 'rejected': 'bad'}
    """
    if len(row.completions) == 2:
        columns: dict[str, Any] = dict(zip(("chosen", "rejected"), row.completions, strict=True))
    else:
        columns = {"completion": row.completions[0], "label": row.desirable[0]}
    columns = {"prompt": row.prompt, **columns}
    if row.tools is not None:
        columns["tools"] = list(row.tools)
    if row.template_options:
        columns["chat_template_kwargs"] = dict(row.template_options)
    if row.weight is not None:
        columns["weight"] = row.weight
    return columns


def check_for_table(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a table holds it: columns of one type, messages of two strings, tools as JSON.

    Raises:
        DataError: the row has what only JSON can hold.
    """
    made: dict[str, Any] = {}
    for column, value in row.items():
        if column == "tools":
            made[column] = json.dumps(value, ensure_ascii=False)
        elif isinstance(value, dict):
            raise DataError(
                f"column {column} holds options, for which a table has no type; write .jsonl instead"
            )
        elif isinstance(value, list):
            extra = {key for turn in value for key in turn} - _MESSAGE
            if extra:
                raise DataError(
                    f"messages of {column} hold {', '.join(sorted(extra))} beside role and content, for which a "
                    f"table has no type; write .jsonl instead"
                )
            made[column] = value
        else:
            made[column] = value
    return made
