"""One of several processes that fill the same entry of a cache; prints which shards it computed.

Usage: turns_job.py FOLDER SHARDS [SHARD_AT_WHICH_IT_IS_KILLED]
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from distal.caching import ScoreCache, ScoreEntry

ROWS = 3


def open_entry(folder: str, shards: int, rows: str = "r") -> ScoreEntry:
    """The entry that all processes fill."""
    return ScoreCache(folder).entry({"weights": "w", "rows": rows}, bounds=range(0, ROWS * shards + 1, ROWS))


def scores_of(number: int) -> np.ndarray:
    """What every process computes for a shard."""
    return (np.arange(ROWS, dtype=np.float32) - 7 * number) / 3


def main(folder: str, shards: int, killed_at: int = -1) -> None:
    """Compute whatever is missing, a moment for each shard."""
    entry = open_entry(folder, shards)
    entry.prepare()
    computed: list[int] = []
    known = entry.load_all()
    for number, taken in entry.turns([n for n in range(shards) if n not in known]):
        if taken is None:
            time.sleep(0.02)
            if number == killed_at:
                print("dying", flush=True)  # noqa: T201
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
            entry.save(number, scores_of(number))
            computed.append(number)
    print(*computed)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
