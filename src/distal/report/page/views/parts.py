"""Parts that sections are made of: tables, intervals on a scale, plots, and notes on what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distal.report.page.reading import mapping

__all__ = ["Curve", "IntervalMark", "Missing", "Plot", "Table", "flattened", "interval_marks", "thinned"]


@dataclass(frozen=True, kw_only=True)
class IntervalMark:
    """An estimate with its interval on a common scale, in per cent of its width.

    Attributes:
        point: where the estimate lies.
        low: where its interval begins; None where there is none.
        high: where it ends.
        reference: where "no difference" lies.
        favourable: whether the whole interval lies on the better (True) or worse (False) side of that; None otherwise.
    """

    point: float
    low: float | None
    high: float | None
    reference: float
    favourable: bool | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        caption: what it holds, for everybody and for screen readers.
        head: names of the columns.
        rows: texts, numbers as written, or interval marks; None for nothing. The first cell names its row.
        numeric: columns that are set flush right.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | IntervalMark | None]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of a plot, with its band if there is one; `role` decides its colour."""

    name: str
    role: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dash: bool = False
    markers: bool = False


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot that the reader's browser draws, what it shows in words, and its numbers as a table."""

    id: str
    title: str
    x_title: str
    y_title: str
    curves: Sequence[Curve]
    description: str
    table: Table
    levels: bool = False
    shade_below_zero: bool = False
    wide: bool = False
    y_range: tuple[float, float] | None = None

    def spec(self) -> dict[str, object]:
        """What the drawing script needs to know."""
        return {
            "x": self.x_title,
            "y": self.y_title,
            "levels": self.levels,
            "shade": self.shade_below_zero,
            "range": None if self.y_range is None else [_rounded(bound) for bound in self.y_range],
            "curves": [
                {
                    "name": curve.name,
                    "role": curve.role,
                    "x": [_rounded(value) for value in curve.x],
                    "y": [_rounded(value) for value in curve.y],
                    "low": None if curve.low is None else [_rounded(value) for value in curve.low],
                    "high": None if curve.high is None else [_rounded(value) for value in curve.high],
                    "dash": curve.dash,
                    "markers": curve.markers,
                }
                for curve in self.curves
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A part that a run does not have.

    Attributes:
        run: name of the run.
        what: is missing, as the beginning of a sentence.
        file: that would hold it.
        command: that makes it.
    """

    run: str
    what: str
    file: str
    command: str = field(default="")


def _rounded(value: float) -> float:
    """Six significant digits: finer than any screen, and a third of the characters."""
    return float(f"{value:.6g}")


def thinned(count: int, most: int) -> list[int]:
    """At most `most` indices out of `count`, evenly spaced, first and last among them.

    Examples:
        >>> thinned(5, 3), thinned(2, 9)
        ([0, 2, 4], [0, 1])
    """
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def flattened(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their dotted names.

    Examples:
        >>> flattened({"a": 1, "b": {"c": [2]}})
        {'a': 1, 'b.c': [2]}
    """
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(mapping(value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def interval_marks(
    values: Sequence[tuple[float | None, tuple[float, float] | None]],
    *,
    reference: float,
    lower_is_better: Sequence[bool] | None = None,
) -> list[IntervalMark | None]:
    """Estimates with intervals on one scale, symmetric about the reference.

    Args:
        values: estimate and interval of each row.
        reference: where there is no difference.
        lower_is_better: of each row; none of them if absent.

    Examples:
        >>> interval_marks([(0.75, (0.5, 1.0))], reference=0.5)[0]
        IntervalMark(point=72.727..., low=50.0, high=95.4545..., reference=50.0, favourable=None)
    """
    distances = [
        abs(bound - reference)
        for value, interval in values
        for bound in ((value,) if interval is None else (value, *interval))
        if bound is not None
    ]
    reach = 1.1 * max(distances, default=0.0) or 1.0

    def place(value: float) -> float:
        return 50.0 * (1 + (value - reference) / reach)

    marks: list[IntervalMark | None] = []
    for (value, interval), lower in zip(values, lower_is_better or [False] * len(values), strict=True):
        if value is None:
            marks.append(None)
            continue
        favourable = None
        if interval is not None and not interval[0] <= reference <= interval[1]:
            favourable = (interval[0] > reference) != lower
        low, high = (None, None) if interval is None else (place(interval[0]), place(interval[1]))
        marks.append(
            IntervalMark(point=place(value), low=low, high=high, reference=50.0, favourable=favourable)
        )
    return marks
