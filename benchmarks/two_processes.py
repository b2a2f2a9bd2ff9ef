"""One process against two: `distal align` on real preferences ends with the same weights, whoever shares the batch.

A small Llama is warmed up on HH-RLHF text (as in `hh_alignment.py`, with a shorter warm-up) and aligned twice over a
few steps from the same seed, by the command line itself: in one process, and in two under torchrun (gloo). Compared are
the final weights, every number of the certificate (`dominance.json`) and of each step's record (`health.jsonl`).

    full           AOT, all weights, in float32
    full-float64   the same in float64: what of the difference is rounding shrinks with it
    unpaired-lora  unpaired AOT, a low-rank adapter, in float32

What the model learns is beside the point here, and a number from this script is no result on the data set.

    python benchmarks/two_processes.py --data helpful-base.jsonl.gz    # a table, and results/two_processes.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from hh_alignment import FULL, LORA, PAIRED, UNPAIRED, align, prepare
from safetensors.torch import load_file

from distal.training.health import HEALTH_FILE
from distal.training.health.log import read_records

RESULTS = Path(__file__).parent / "results" / "two_processes.json"
GOAL = 1e-5
"""Largest difference of a final weight, float32."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
LAUNCHERS: dict[str, tuple[str, ...]] = {"one": (), "two": TORCHRUN}
STEPS = {"max_steps": 6}
RUNS: dict[str, dict[str, object]] = {
    "full": {**PAIRED, **FULL, **STEPS, "objective": "aot"},
    "full-float64": {**PAIRED, **FULL, **STEPS, "objective": "aot", "dtype": "float64"},
    "unpaired-lora": {**UNPAIRED, **LORA, **STEPS},
}
NOT_COMPARED = ("seconds", "time", "memory", "tokens_per_second", "heaviest_rows")
"""Keys, or parts of them, of numbers that measure the machine, or name rows: at the first step all weigh the same."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What the run saved: a model, or an adapter."""
    (file,) = folder.glob("*model.safetensors")
    return {name: tensor.double() for name, tensor in load_file(file).items()}


def numbers(value: object, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested records, with its path; text and what measures the machine are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not any(part in str(key) for part in NOT_COMPARED):
                yield from numbers(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{where}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, float(value)


def largest_difference(one: object, two: object) -> tuple[float, str]:
    """Largest difference between the numbers of two records, relative to 1 or the number, and where it is.

    Raises:
        ValueError: they do not hold numbers at the same places.
    """
    a, b = dict(numbers(one)), dict(numbers(two))
    if a.keys() != b.keys():
        raise ValueError(f"one record only has {sorted(a.keys() ^ b.keys())[:5]}")
    off = {where: abs(a[where] - b[where]) / max(1.0, abs(a[where])) for where in a}
    worst = max(off, key=lambda where: math.inf if math.isnan(off[where]) else off[where])
    return off[worst], worst


def compare(name: str, work: Path) -> dict[str, Any]:
    """One row of the result."""
    one, two = (work / f"{name}-{how}" for how in LAUNCHERS)
    a, b = weights(one), weights(two)
    if a.keys() != b.keys():
        raise ValueError(f"{name}: the saved weights have other names")
    difference = torch.cat([(a[key] - b[key]).abs().flatten() for key in a])
    start = weights(work / "base")
    moved = max(((a[key] - start[key]).abs().max().item() for key in a if key in start), default=None)
    certificate, certificate_at = largest_difference(
        *(json.loads((run / "dominance.json").read_text()) for run in (one, two))
    )
    steps = [read_records(run / HEALTH_FILE) for run in (one, two)]
    step, step_at = largest_difference(*steps)
    return {
        "run": name,
        "steps": len(steps[0]),
        "weights": difference.numel(),
        "largest_move_of_a_weight": moved,
        "largest_difference_of_a_weight": difference.max().item(),
        "rms_difference_of_weights": difference.square().mean().sqrt().item(),
        "certificate": certificate,
        "certificate_at": certificate_at,
        "step_records": step,
        "step_records_at": step_at,
    }


def tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the documentation shows."""
    header = ["run", "optimizer steps", "largest move of a weight", "largest difference of a weight"]
    header += ["largest difference in `dominance.json`", "largest difference in `health.jsonl`"]
    keys = ("run", "steps", "largest_move_of_a_weight", "largest_difference_of_a_weight")
    cells = [[row[key] for key in (*keys, "certificate", "step_records")] for row in rows]
    return {
        "differences": {"header": header, "rows": [["-" if c is None else c for c in row] for row in cells]}
    }


def main() -> None:
    """Prepare once, run what is missing, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="helpful-base.jsonl.gz")
    parser.add_argument("--work", type=Path, default=Path("runs/two-processes"))
    parser.add_argument("--epochs", type=float, default=1.0, help="passes of the warm-up over the text")
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of every process: so that both ways add up numbers alike
    arguments.work.mkdir(parents=True, exist_ok=True)
    if not (arguments.work / "base").exists():
        prepare(arguments.data, arguments.work, arguments.epochs)
    for name in arguments.only:
        for how, launcher in LAUNCHERS.items():
            if not (arguments.work / f"{name}-{how}" / "seconds.json").exists():
                align(f"{name}-{how}", {"use_cpu": True, **RUNS[name]}, arguments.work, launcher)
    rows = [compare(name, arguments.work) for name in arguments.only]
    record = {
        "environment": {
            "backend": "gloo",
            "threads_per_process": 1,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
            "data": arguments.data.name,
            "warm_up_epochs": arguments.epochs,
        },
        "goal": GOAL,
        "runs": rows,
        "tables": tables(rows),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table: Any = record["tables"]
    for row in (table["differences"]["header"], *table["differences"]["rows"]):
        print(
            "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
        )


if __name__ == "__main__":
    main()
