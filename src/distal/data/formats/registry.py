"""All formats, and which one a data set is in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from distal.data.formats import (
    comparisons,
    graded,
    helpsteer,
    pku,
    tools,
    transcripts,
    trees,
    trl,
    ultrafeedback,
)
from distal.data.formats.base import Format, Row
from distal.data.values import listed
from distal.errors import ConfigError, DataError

__all__ = ["COLUMNS", "FORMATS", "find_format"]

FORMATS: dict[str, Format] = {
    form.name: form
    for family in (
        trees,
        helpsteer,
        pku,
        ultrafeedback,
        transcripts,
        comparisons,
        tools,
        graded,
        trl,
    )
    for form in family.FORMATS
}
"""Name -> format; of several that fit, the first is taken: what asks for more stands before what asks for less."""

COLUMNS = frozenset(column for form in FORMATS.values() for column in form.columns) | {"id", "source"}
"""Every column that some format looks at."""

_GENERIC = frozenset({"prompt", "chosen", "rejected", "completion", "label"})


def find_format(
    columns: Collection[str], rows: Sequence[Row], name: str, wanted: str | None = None
) -> Format:
    """Tell from the columns, and from the first rows, how a data set is to be read.

    Args:
        columns: names of all columns.
        rows: the first rows.
        name: the data set, for messages.
        wanted: name of a format, which is then taken as it is.

    Raises:
        DataError: the columns are those of no format, or of pairs and of unpaired answers at once.
        ConfigError: there is no format of that name.

    Examples:
        >>> find_format(["prompt", "completion", "label"], [], "rows").kind
        'unpaired'
    """
    if wanted is not None:
        return _named(wanted)
    found = set(columns)
    if {"chosen", "rejected"} <= found and {"prompt", "completion", "label"} <= found:
        raise DataError(
            f"{name}: the columns {sorted(found & _GENERIC)} fit both paired and unpaired data; remove "
            f"chosen and rejected, or completion and label, or say which with format='paired' or 'unpaired'"
        )
    for form in FORMATS.values():
        if form.recognise(found, rows):
            return form
    raise DataError(
        f"{name}: wrong columns; found {listed(sorted(found, key=str))}; expected prompt, chosen, rejected (paired), "
        f"chosen, rejected (paired, the prompt being their shared beginning), prompt, completion, label (unpaired), or "
        f"those of a known data set (`distal data formats`); {_nearest(found)}"
    )


def _nearest(found: set[str]) -> str:
    """What to do about columns that are those of no format: other spellings, one that is missing, or a map."""
    spelt = {str(name).strip().lower(): name for name in found}
    other = [
        f"{column}={spelt[column]}" for column in sorted(_GENERIC) if column in spelt and column not in found
    ]
    if other and all(re.fullmatch(r"[\w.=-]+", word) for word in other):
        return f"map them: --map '{' '.join(other)}'"
    for needed in ({"prompt", "completion", "label"}, {"chosen", "rejected"}):
        missing = needed - found
        if len(missing) == 1 and len(needed & found) >= 1:
            return f"{missing.pop()} is missing beside {', '.join(sorted(needed & found))}: add it, or map it: --map"
    return "rename the columns, or map them: --map prompt=COLUMN"


def _named(name: str) -> Format:
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(FORMATS)}"
    raise ConfigError(f"format={name!r}: no such format; {hint} (`distal data formats` lists them)")
