"""Fill an entry of the score cache with processes that are killed again and again, then flip bytes of its files.

Two processes at a time compute the shards of one entry, and each is killed with SIGKILL at a random moment after it
has begun; another one takes its place, until all shards are there. After each kill every file is checked, and every
shard compared with what it should hold. At the end of it one byte after another is flipped, anywhere in any file of the
entry: each must be found, and named. What is computed is arithmetic, so that no language model is needed.

    python benchmarks/kill_the_cache.py           # a line, and benchmarks/results/kill_the_cache.json

The moments follow from the seed, up to what the system does in between.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np

from distal.caching import KINDS, ScoreCache, ScoreEntry

ROOT = Path(__file__).resolve().parents[1]
ROWS = 500
FORK = multiprocessing.get_context("fork")


def open_entry(folder: str, shards: int) -> ScoreEntry:
    """The entry that all processes fill."""
    return ScoreCache(folder).entry(
        {"weights": "none", "rows": "none"}, bounds=range(0, ROWS * shards + 1, ROWS)
    )


def scores_of(number: int) -> np.ndarray:
    """What every process computes for a shard."""
    return (np.arange(ROWS, dtype=np.float32) - 7 * number) / 3


def fill(folder: str, shards: int, begun: Any) -> None:
    """Compute what is missing; `begun` is set with the first shard."""
    entry = open_entry(folder, shards)
    known = entry.load_all()
    entry.prepare()
    for number, taken in entry.turns([n for n in range(shards) if n not in known]):
        begun.set()
        if taken is None:
            entry.save(number, scores_of(number))
    begun.set()


def start(folder: str, shards: int) -> tuple[ForkProcess, Any]:
    """A process at the entry, and what tells that it has begun."""
    begun = FORK.Event()
    process = FORK.Process(target=fill, args=(folder, shards, begun))
    process.start()
    return process, begun


def kill_until_full(folder: str, shards: int, draw: random.Random) -> dict[str, int]:
    """Processes die until the entry is complete; what was seen."""
    seen = {"kills": 0, "half files": 0, "damaged files": 0, "wrong shards": 0}
    at_work = [start(folder, shards) for _ in range(2)]
    entry = open_entry(folder, shards)
    while True:
        process, begun = at_work.pop(draw.randrange(2))
        begun.wait(60)
        time.sleep(draw.uniform(0, 0.03))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen["kills"] += process.exitcode == -signal.SIGKILL
        found = entry.load_all()
        seen["damaged files"] += len(KINDS["scores"].check(entry.folder))
        seen["wrong shards"] += sum(
            not np.array_equal(held, scores_of(number)) for number, held in found.items()
        )
        if len(found) == shards:
            break
        at_work.append(start(folder, shards))
    for process, _ in at_work:
        process.join()
    seen["half files"] = sum(path.name.startswith(".") for path in entry.folder.iterdir())
    return seen


def flip_bytes(folder: str, shards: int, flips: int, draw: random.Random) -> dict[str, int]:
    """Flips one bit after another, each somewhere in a file of the entry; how many were found, and named."""
    entry = open_entry(folder, shards)
    files = [path for path in sorted(entry.folder.iterdir()) if path.stat().st_size and path.name[0] != "."]
    found = 0
    for _ in range(flips):
        path = draw.choice(files)
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        messages: list[str] = []
        held = open_entry(folder, shards).load_all(messages.append)
        right = all(np.array_equal(scores, scores_of(number)) for number, scores in held.items())
        found += right and len(messages) == 1 and str(path) in messages[0]
        path.write_bytes(whole)
    return {"flips": flips, "found": found}


def main() -> None:
    """Run it, print the result and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=600)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "kill_the_cache.json"
    )
    options = parser.parse_args()
    draw, begun = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        killed = kill_until_full(folder, options.shards, draw)
        flipped = flip_bytes(folder, options.shards, options.flips, draw)
    result = {
        "settings": {name: getattr(options, name) for name in ("shards", "flips", "seed")} | {"rows": ROWS},
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "system": platform.platform(),
            "cores": os.cpu_count(),
        },
        "seconds": round(time.monotonic() - begun, 1),
        "killed": killed,
        "flipped": flipped,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**killed, **flipped, "seconds": result["seconds"]}))


if __name__ == "__main__":
    main()
