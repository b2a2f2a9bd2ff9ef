"""What a user's rows say besides the preference, for slices: any column, and the number of turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distal.data.loading import DataLike
from distal.data.preferences import TokenizedPreferences
from distal.data.reading import Item, PreferenceSource, ReadOptions, open_preferences
from distal.data.reasons import RowProblem
from distal.data.schemas import USER_MARK, Preference
from distal.errors import ConfigError

__all__ = ["TURNS", "unit_attributes"]

TURNS = "turns"
"""Name of the attribute that counts the user's turns in the prompt."""

_MISSING = "(none)"


def unit_attributes(
    dataset: TokenizedPreferences,
    data: DataLike,
    names: Sequence[str],
    *,
    reading: ReadOptions | None = None,
    split: str | None = None,
) -> dict[str, NDArray[Any]]:
    """Attributes of every unit, from the rows that the data set was made of.

    Args:
        dataset: what `prepare_dataset` made of the data.
        data: the same data.
        names: columns of the rows, or `turns`: how often the user speaks in the prompt.
        reading: as it was read.
        split: as it was read.

    Returns:
        For each name an array with one value per unit: numbers if all are numbers, else words, `(none)` where there
        is no value.

    Raises:
        ConfigError: a name that is no column, or columns of data whose rows are gone: of graded answers.
    """
    source = open_preferences(data, reading, split=split, name="data")
    wanted = [name for name in names if name != TURNS]
    found: dict[str, dict[int, Any]] = {name: {} for name in names}
    needed = set(dataset.source_rows.tolist())
    seen: set[str] = set()
    for number, item in source.items():
        if number not in needed:
            continue
        if wanted:
            row = _columns(item, source, wanted)
            seen |= set(row)
            for name in wanted:
                found[name][number] = row.get(name)
        if TURNS in names:
            found[TURNS][number] = _turns(source, item)
    unknown = [name for name in wanted if name not in seen]
    if unknown:
        raise ConfigError(
            f"slice_by: {', '.join(unknown)}: no such column in {source.name}; there are "
            f"{', '.join(source.columns)}, and {TURNS}, completion_length, prompt_length"
        )
    return {name: _as_array([found[name].get(row) for row in dataset.source_rows.tolist()]) for name in names}


def _columns(item: Item, source: PreferenceSource, wanted: Sequence[str]) -> dict[str, Any]:
    """The row's columns."""
    if isinstance(item, Preference | RowProblem):
        raise ConfigError(
            f"slice_by: {', '.join(wanted)}: the preferences of {source.name} are made of several graded rows each, "
            f"which have no column in common; slice by {TURNS}, completion_length or prompt_length"
        )
    return dict(item)


def _turns(source: PreferenceSource, item: Item) -> int | None:
    """How often the user speaks in the prompt; None for a row that cannot be read."""
    try:
        for made in source.read(item):
            if isinstance(made, Preference):
                if isinstance(made.prompt, str):
                    return max(1, made.prompt.count(USER_MARK))
                return sum(turn["role"] == "user" for turn in made.prompt)
    except RowProblem:
        pass
    return None


def _as_array(values: Sequence[Any]) -> NDArray[Any]:
    """Numbers as numbers, everything else as words."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values)
    return np.array([_MISSING if value is None else str(value) for value in values])
