"""How data is read, from the options that `align`, `evaluate` and the verbs about data share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from distal.data import GradeOptions, ReadOptions, parse_map
from distal.errors import ConfigError

__all__ = ["read_options"]


def read_options(
    *,
    format: str | None = None,
    map: str | Sequence[str] | Mapping[str, str] | None = None,
    chat: bool = False,
    grade_weights: bool = False,
    **grades: Any,
) -> ReadOptions:
    """Checks and collects what says how rows are read.

    Args:
        format: name of a format; None to recognise it.
        map: names of columns, as a mapping or as `prompt=question chosen=good`.
        chat: whether plain strings become messages.
        grade_weights: whether preferences are weighted by their grades.
        **grades: from_grades, grades, grade_threshold, grade_ties, grade_margin, grade_seed; None for the default.

    Raises:
        ConfigError: a value that an option cannot have.

    Examples:
        >>> read_options(map="prompt=question", grades="helpfulness verbosity=-0.5").grades.grades
        {'helpfulness': 1.0, 'verbosity': -0.5}
    """
    columns = (
        dict(map) if isinstance(map, Mapping) else parse_map([map] if isinstance(map, str) else map or [])
    )
    wrong = [name for name, column in columns.items() if not isinstance(column, str)]  # pyright: ignore
    if wrong:
        raise ConfigError(
            f"map: {', '.join(wrong)} should be the name of a column, in quotes where it is a number"
        )
    given = {name: value for name, value in grades.items() if value is not None}
    made = None
    if given or grade_weights:
        made = GradeOptions(
            method=given.pop("from_grades", "threshold"),
            grades=_weights(given.pop("grades")) if "grades" in given else None,
            threshold=_threshold(given.pop("grade_threshold", "median")),
            ties=given.pop("grade_ties", "drop"),
            margin=given.pop("grade_margin", 0.0),
            seed=given.pop("grade_seed", 0),
            weights=grade_weights,
        )
        assert not given, f"no such options: {', '.join(given)}"
    return ReadOptions(format=format, columns=columns, chat=chat, grades=made)


def _threshold(value: Any) -> str | float:
    """A number where the text is one."""
    try:
        return float(value)
    except ValueError:
        return str(value)


def _weights(given: str | Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
    """Attributes with their weights; a name on its own counts 1."""
    if isinstance(given, Mapping):
        pairs = [(str(name), str(weight)) for name, weight in given.items()]
    else:
        words = [given] if isinstance(given, str) else given
        parts = [part for word in words for part in re.split(r"[,\s]+", str(word).strip()) if part]
        pairs = [cast("tuple[str, str]", (*part.split("=", 1), "1")[:2]) for part in parts]
    weights: dict[str, float] = {}
    for name, written in pairs:
        try:
            weight = float(written)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight) or not name:
            raise ConfigError(
                f"grades: {name}={written} should be an attribute with a number, as in verbosity=-0.5"
            )
        if name in weights:
            raise ConfigError(f"grades: {name} is given twice; keep one")
        weights[name] = weight
    return weights
