"""Progress bars with an estimate of the time left, for any long loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["track"]

T = TypeVar("T")


def track(items: Sequence[T], description: str | None, weights: Sequence[float] | None = None) -> Iterator[T]:
    """Iterate over `items` with a progress bar on standard error.

    Args:
        items: what to iterate over.
        description: what is being done; None for no bar.
        weights: work of each item in any unit (tokens, say), so that the estimate is right when items differ.

    Example:
        >>> list(track([1, 2], None))
        [1, 2]
    """
    if description is None or not items:
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    steps = weights if weights is not None else [1.0] * len(items)
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task(description, total=sum(steps))
        for item, step in zip(items, steps, strict=True):
            yield item
            bar.advance(task, step)
