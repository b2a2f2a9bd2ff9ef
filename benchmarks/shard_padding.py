"""What it costs that a data set is scored in shards: token places, computed from lengths of rows; no model runs.

Rows are cut into forward passes shard by shard, so that a shard scored again has the same bits. Counted are the places
of passes that follow each other: of those that ranks make at the same time, the largest. The opponent is a data set cut
as a whole. `meeting after each shard` is what it would cost if ranks exchanged scores after every shard.

    python benchmarks/shard_padding.py           # a table, and benchmarks/results/shard_padding.json
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distal.scoring.batching import cut_by_tokens, pack_by_tokens
from distal.scoring.dataset import WAVE, shard_bounds

RESULT = Path(__file__).resolve().parent / "results" / "shard_padding.json"
ROWS, SHORTEST, LONGEST, SEED = 40_000, 16, 1024, 0


def pass_sizes(lengths: Sequence[int], budget: int, layout: str) -> list[int]:
    """Places of each forward pass."""
    if layout == "padded":
        return [len(group) * max(lengths[i] for i in group) for group in cut_by_tokens(lengths, budget)]
    return [sum(lengths[i] for i in group) for group in pack_by_tokens(lengths, budget)]


def one_after_another(sizes: Sequence[int], ranks: int) -> int:
    """Places that follow each other where ranks take turns at the passes."""
    return sum(max(sizes[start : start + ranks]) for start in range(0, len(sizes), ranks))


def in_shards(lengths: Sequence[int], budget: int, layout: str, ranks: int, wave: int) -> int:
    """The same, where ranks exchange scores at the end of a shard as soon as each has had so many passes."""
    waiting: list[int] = []
    places = 0
    bounds = shard_bounds(lengths, 1)
    for start, stop in itertools.pairwise(bounds):
        waiting += pass_sizes(lengths[start:stop], budget, layout)
        if len(waiting) >= wave * ranks or ranks == 1 or stop == bounds[-1]:
            places += one_after_another(sorted(waiting, reverse=True), ranks)
            waiting = []
    return places


def main() -> None:
    """Compute, print and write the table."""
    draw = np.random.default_rng(SEED)
    lengths = np.clip(draw.lognormal(5.5, 0.7, ROWS), SHORTEST, LONGEST).astype(int).tolist()
    rows: list[dict[str, object]] = []
    for budget, layout, ranks in itertools.product((8192, 65536), ("padded", "packed"), (1, 8, 64)):
        whole = one_after_another(pass_sizes(lengths, budget, layout), ranks)
        shards = in_shards(lengths, budget, layout, ranks, WAVE)
        each = in_shards(lengths, budget, layout, ranks, 0)
        row: dict[str, object] = {"tokens per pass": budget, "layout": layout, "ranks": ranks}
        more = {
            "more places": f"{shards / whole - 1:+.1%}",
            "meeting after each shard": f"{each / whole - 1:+.1%}",
        }
        rows.append(row | more)
        print(*rows[-1].values())
    settings = {"rows": ROWS, "tokens": sum(lengths), "shards": len(shard_bounds(lengths, 1)) - 1}
    RESULT.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
