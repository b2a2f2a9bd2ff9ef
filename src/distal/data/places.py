"""Where a row stands in its file: carried along with the row, so that whatever is wrong with it can say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from distal.data.reasons import RowProblem

__all__ = ["PlacedRow", "placed", "read_placed"]

T = TypeVar("T")


class PlacedRow(dict[str, Any]):
    """A row of a file.

    Attributes:
        line: the line of the file on which it begins, from 1; None where rows have no lines.
        problem: why it cannot be used, where the file itself shows that; else None.
    """

    line: int | None = None
    problem: RowProblem | None = None


def placed(row: Mapping[str, Any], *origins: object) -> PlacedRow:
    """A row made of others: it stands where the first of them does, and has the first problem among theirs.

    Examples:
        >>> source = PlacedRow(question="q")
        >>> source.line = 7
        >>> placed({"prompt": "q"}, source).line
        7
    """
    made = PlacedRow(row)
    known = [origin for origin in origins if isinstance(origin, PlacedRow)]
    if known:
        made.line = known[0].line
        made.problem = next((origin.problem for origin in known if origin.problem is not None), None)
    return made


def read_placed(read: Callable[[Any], Iterator[T]], row: object) -> Iterator[T]:
    """What a reader makes of a row, while each problem learns the line of the row.

    Raises:
        RowProblem: the reader does, or the row brings one along.
    """
    line, problem = (row.line, row.problem) if isinstance(row, PlacedRow) else (None, None)
    try:
        if problem is not None:
            raise problem
        for made in read(row):
            if isinstance(made, RowProblem):
                made.at(line)
            yield made
    except RowProblem as found:
        raise found.at(line) from None
