"""Ways to get log-probabilities out of hidden states: time of forward and backward pass, and what the graph keeps.

For vocabularies of 1k, 32k and 128k: logits materialised and left to autograd (what a model's own head does), the
gradient stored in the forward pass (frozen head), gradients formed in the forward pass for known coefficients, and
logits computed again in the backward pass (trained head), each with tiles of several sizes. All in one process, in an
order that is reversed from round to round; reported are medians and the ratio to the bare matrix products.

    python benchmarks/head.py            # tables, and benchmarks/results/head.json; some minutes
    python benchmarks/head.py --toy      # seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distal.scoring.head import head_log_probs, token_log_probs, weighted_sum

RESULTS = Path(__file__).parent / "results" / "head.json"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HEADER = ["vocabulary", "type", "head", "way", "seconds", "over bare products", "kept (MiB)"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def materialised(h: Tensor, w: Tensor, y: Tensor, _c: Tensor) -> Tensor:
    """Whole logits, autograd."""
    return token_log_probs(torch.nn.functional.linear(h, w), y).sum()


def ways(trained: bool, tiles: list[int]) -> dict[str, Callable[..., Tensor]]:
    """Forward passes to a scalar by name."""
    found: dict[str, Callable[..., Tensor]] = {"materialised": materialised}
    for tile in tiles:
        size = f"tile {tile}" if tile else "one tile"
        if not trained:
            found[f"stored gradient, {size}"] = lambda h, w, y, c, tile=tile: head_log_probs(
                h, w, None, y, tile=tile or len(y)
            ).sum()
            continue
        found[f"known coefficients, {size}"] = lambda h, w, y, c, tile=tile: weighted_sum(
            h, w, None, y, c, tile=tile or len(y)
        )
        found[f"residual kept, {size}"] = lambda h, w, y, c, tile=tile: head_log_probs(
            h, w, None, y, tile=tile or len(y), keep_logits=True
        ).sum()
        found[f"recomputed, {size}"] = lambda h, w, y, c, tile=tile: head_log_probs(
            h, w, None, y, tile=tile or len(y), keep_logits=False
        ).sum()
    return found


def bare(h: Tensor, w: Tensor, trained: bool, clock: Callable[[], float]) -> float:
    """Seconds of the matrix products that cannot be avoided."""
    start = clock()
    with torch.no_grad():
        z = h @ w.t()
        torch.mm(z, w)
        if trained:
            torch.mm(z.t(), h)
    return clock() - start


def measure(
    n: int, hidden: int, vocabulary: int, dtype: str, trained: bool, options: Any
) -> list[dict[str, Any]]:
    """Rows of one setting."""
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(n, hidden, generator=draw).to(DTYPES[dtype]).requires_grad_()
    w = (torch.randn(vocabulary, hidden, generator=draw) * 0.05).to(DTYPES[dtype]).requires_grad_(trained)
    y, c = torch.randint(vocabulary, (n,), generator=draw), torch.randn(n, generator=draw)
    clock = CLOCKS[options.clock]
    todo = ways(trained, [t for t in options.tiles if t < n] + [0])
    times: dict[str, list[float]] = {name: [] for name in (*todo, "bare")}
    kept: dict[str, int] = {}
    for round_number in range(options.rounds + 1):
        names = list(times) if round_number % 2 else list(reversed(times))
        for name in names:
            if name == "bare":
                taken = bare(h, w, trained, clock)
            else:
                saved: dict[int, int] = {}

                def keep(t: Tensor, saved: dict[int, int] = saved) -> Tensor:
                    saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                    return t

                start = clock()
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                    total = todo[name](h, w, y, c)
                total.backward()
                taken = clock() - start
                kept[name] = sum(saved.values())
                h.grad = w.grad = None
            if round_number:
                times[name].append(taken)
    floor = statistics.median(times.pop("bare"))
    own = w.untyped_storage().nbytes()
    return [
        {
            "vocabulary": vocabulary,
            "dtype": dtype,
            "head": "trained" if trained else "frozen",
            "way": name,
            "seconds": statistics.median(taken),
            "over_products": statistics.median(taken) / floor,
            "kept_mib": max(0, kept[name] - own) / 2**20,
        }
        for name, taken in times.items()
    ]


def tables(cells: list[list[Any]]) -> dict[str, Any]:
    """All rows, and for each setting how far whole logits and the best tile of every other way are from the floor."""
    ways = ("materialised", "stored gradient", "known coefficients", "residual kept", "recomputed")
    settings = dict.fromkeys(tuple(row[:3]) for row in cells)
    best = [
        [*setting]
        + [
            min((row[5] for row in cells if tuple(row[:3]) == setting and row[3].startswith(way)), default="")
            for way in ways
        ]
        for setting in settings
    ]
    return {
        "head": {"header": HEADER, "rows": cells},
        "best": {"header": [*HEADER[:3], *ways], "rows": best},
    }


def main() -> None:
    """All rows, a table and a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[1024, 32768, 131072])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES))
    parser.add_argument("--tiles", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: of one thread, on a machine in use"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.toy:
        options.tokens, options.hidden, options.rounds, options.vocabularies = 64, 16, 1, [128]
        options.tiles, options.output = [16], Path("/dev/null")
    rows = [
        row
        for vocabulary in options.vocabularies
        for dtype in options.dtypes
        for trained in (False, True)
        for row in measure(options.tokens, options.hidden, vocabulary, dtype, trained, options)
    ]
    cells = [list(row.values()) for row in rows]
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clock": options.clock,
        "machine": platform.machine(),
        "tokens": options.tokens,
        "hidden": options.hidden,
    }
    record = {"environment": environment, "tables": tables(cells)}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    for line in [HEADER, *cells]:
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in line) + " |")


if __name__ == "__main__":
    main()
