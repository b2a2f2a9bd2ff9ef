"""How often slices are wrongly said to dominate, by simulation on laws at the edge of the null.

    python benchmarks/slices.py              # a table, and benchmarks/results/slices.json; about 15 minutes
    python benchmarks/slices.py --trials 50  # a rough look

Every slice is drawn from two laws whose violation ratio is the threshold, so that each "dominates" is wrong. "any
wrong" counts data sets of `slices` independent slices in which at least one is; it should be the level, 0.05. "any
wrong, normal law" is what Holm's correction of the asymptotic p-values alone would have given. "dominates" is how
often a slice is said to dominate, among as many, where all do almost: u moved up by one more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, t

from distal.evaluation.comparing import Settings
from distal.evaluation.slices import holm, sliced
from distal.evaluation.statistics import FloatArray
from distal.transport import dominance_test

RESULTS = Path(__file__).parent / "results" / "slices.json"
THRESHOLD, LEVEL, RESAMPLES = 0.25, 0.05, 1000
HEAVY = "Student, 4 degrees of freedom"
LAWS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "normal": norm.ppf,
    HEAVY: lambda p: np.asarray(t.ppf(p, 4), dtype=np.float64),
}
"""Quantile functions of v; u has twice the spread."""


def edge(quantile: Callable[[FloatArray], FloatArray]) -> float:
    """How far u must be moved for a violation ratio of the threshold, by bisection."""
    gap = quantile((np.arange(400_000) + 0.5) / 400_000)
    low, high = -5.0, 5.0
    for _ in range(50):
        moved = gap + (low + high) / 2
        ratio = np.square(np.minimum(moved, 0)).sum() / np.square(moved).sum()
        low, high = ((low + high) / 2, high) if ratio > THRESHOLD else (low, (low + high) / 2)
    return low


def said(u: FloatArray, v: FloatArray, labels: Any, seed: int) -> list[bool]:
    """Which slices are said to dominate."""
    settings = Settings(
        paired=False, confidence=1 - LEVEL, resamples=RESAMPLES, seed=seed, threshold=THRESHOLD
    )
    return [bool(part.dominates) for part in sliced(u, v, {"slice": (labels, labels)}, settings).slices]


def normal_law(u: FloatArray, v: FloatArray, labels: Any) -> bool:
    """Whether any slice would be said to dominate by the asymptotic test alone."""
    p_values = [
        dominance_test(
            torch.from_numpy(u[labels == k]), torch.from_numpy(v[labels == k]), method="asymptotic"
        ).p_value
        for k in np.unique(labels)
    ]
    return min(holm(p_values)) <= LEVEL


def cell(name: str, number: int, n: int, slices: int, trials: int) -> list[object]:
    """Rates of one law, size and number of slices; `number` keeps the draws of the laws apart."""
    quantile, wrong, before, right = LAWS[name], 0, 0, 0.0
    shift, labels = edge(quantile), np.repeat(np.arange(slices), n)
    for trial in range(trials):
        random = np.random.default_rng([number, trial, n, slices])
        u, v = shift + 2 * quantile(random.random(labels.size)), quantile(random.random(labels.size))
        wrong += any(said(u, v, labels, trial))
        before += normal_law(u, v, labels)
        if trial % 4 == 0:
            right += float(np.mean(said(u + 1, v, labels, trial))) * 4 / trials
    row: list[object] = [
        name,
        n,
        slices,
        round(wrong / trials, 3),
        round(before / trials, 3),
        round(right, 3),
    ]
    print(row, flush=True)
    return row


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=400, help="data sets per cell, a multiple of 4")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    start = time.process_time()
    rows = [
        cell(name, number, n, slices, arguments.trials)
        for number, name, slices in ((0, "normal", 8), (0, "normal", 16), (1, HEAVY, 8))
        for n in (25, 50, 100, 200)
    ]
    header = ["law", "samples a side", "slices", "any wrong", "any wrong, normal law", "dominates"]
    environment = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "resamples": RESAMPLES,
        "trials": arguments.trials,
        "standard error at the level": round(math.sqrt(LEVEL * (1 - LEVEL) / arguments.trials), 3),
        "processor seconds": round(time.process_time() - start),
    }
    record = {"environment": environment, "tables": {"rates": {"header": header, "rows": rows}}}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
