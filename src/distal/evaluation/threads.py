"""Many requests at once, each of which keeps its own result before the next one begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from distal.progress import follow

__all__ = ["in_threads"]

T = TypeVar("T")


def in_threads(
    items: Sequence[T],
    work: Callable[[T], None],
    *,
    concurrency: int,
    stopped: threading.Event,
    description: str | None = None,
) -> None:
    """Call `work` on every item, several at once, in their order.

    When one call fails, no further one begins, those under way come to their end, and the first failure is raised.
    So `work` should keep what it finds by itself, as `distal.evaluation.journal.Journal` does.

    Args:
        items: what to work on.
        work: called once for each, in threads.
        concurrency: most calls at once.
        stopped: set when no further call should begin; calls that wait should watch it.
        description: of the progress bar; None for no bar.

    Examples:
        >>> found = []
        >>> in_threads([1, 2, 3], found.append, concurrency=1, stopped=threading.Event())
        >>> found
        [1, 2, 3]
    """
    with ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="distal-request") as pool:
        try:
            for _ in follow(
                _finished(items, work, pool, concurrency), description, total=len(items), work=lambda _: 1.0
            ):
                pass
        except BaseException:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _finished(
    items: Iterable[T], work: Callable[[T], None], pool: ThreadPoolExecutor, concurrency: int
) -> Iterator[None]:
    """Yields once for each call that came to its end; no more calls are begun than can run."""
    running: set[Future[None]] = set()
    coming = iter(items)
    while True:
        while len(running) < concurrency and (item := next(coming, _END)) is not _END:
            running.add(pool.submit(work, item))  # pyright: ignore[reportArgumentType]
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            yield


_END = object()
