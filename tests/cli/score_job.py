"""`distal` with small shards, killed by the system after so many of them were written.

Usage: score_job.py SHARDS WORDS_OF_THE_COMMAND ...
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from distal.caching import ScoreEntry
from distal.cli import main
from distal.scoring import dataset

SHARD_TOKENS = 100

if __name__ == "__main__":
    dataset.SHARD_TOKENS = SHARD_TOKENS
    save, written, last = ScoreEntry.save, itertools.count(1), int(sys.argv.pop(1))

    def save_and_die(entry: ScoreEntry, number: int, scores: Any) -> None:
        """Writes a shard, and is killed if it is the one."""
        save(entry, number, scores)
        if next(written) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    ScoreEntry.save = save_and_die  # pyright: ignore[reportAttributeAccessIssue]
    main()
