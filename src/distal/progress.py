"""Progress bars with an estimate of the time left, for any long loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["follow", "meter", "track"]

T = TypeVar("T")


def track(items: Sequence[T], description: str | None, weights: Sequence[float] | None = None) -> Iterator[T]:
    """Iterate over `items` with a progress bar on standard error.

    Args:
        items: what to iterate over.
        description: what is being done; None for no bar.
        weights: work of each item in any unit (tokens, say), so that the estimate is right when items differ.

    Examples:
        >>> list(track([1, 2], None))
        [1, 2]
    """
    steps = weights if weights is not None else [1.0] * len(items)
    pairs = zip(items, steps, strict=True)
    shown = description if items else None
    return (item for item, _ in follow(pairs, shown, total=sum(steps), work=lambda pair: pair[1]))


def follow(
    items: Iterable[T],
    description: str | None,
    *,
    total: float | None,
    work: Callable[[T], float],
    patience: float = 0.0,
) -> Iterator[T]:
    """Iterate over `items`, however many they are, with a progress bar on standard error.

    Args:
        items: what to iterate over.
        description: what is being done; None for no bar.
        total: work of all items together; None where nobody knows, and then there is no estimate either.
        work: of one item, in the unit of `total`.
        patience: seconds after which the bar appears, so that short work passes without one.

    Examples:
        >>> list(follow(iter("ab"), None, total=2, work=len))
        ['a', 'b']
    """
    with meter(description, total=total, patience=patience) as advance:
        for item in items:
            advance(0.0)
            yield item
            advance(work(item))


@contextmanager
def meter(
    description: str | None, *, total: float | None, patience: float = 0.0
) -> Generator[Callable[[float], None]]:
    """A progress bar on standard error that whoever does the work moves on.

    Args:
        description: what is being done; None for no bar.
        total: all the work, in any unit; None where nobody knows, and then there is no estimate either.
        patience: seconds after which the bar appears, so that short work passes without one.

    Yields:
        What to call with the work done since the last call; the first call shows the bar.

    Examples:
        >>> with meter(None, total=2) as advance:
        ...     advance(1.0)
    """
    if description is None:
        yield lambda work: None
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(file=sys.stderr))
    task = bar.add_task(description, total=total)
    begun = time.monotonic()

    def advance(work: float) -> None:
        if not bar.live.is_started and time.monotonic() - begun >= patience:
            bar.start()
        bar.advance(task, work)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()
