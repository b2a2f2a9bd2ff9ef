"""How long a dominance certificate takes, beside one whose resamples are sorted anew.

    python benchmarks/certificate.py             # a table, and benchmarks/results/certificate.json; about 2 minutes
    python benchmarks/certificate.py --quick     # a tenth of the resamples, scaled up

Goal: 100,000 rewards and 10,000 resamples in less than 10 seconds on two cores. "sorted anew" writes every resample
out, sorts it, and computes the same statistics from the definitions (NumPy; a few resamples, scaled up); that both
are equal is checked on the resamples of one block first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distal.evaluation import LEVELS, dominance_certificate
from distal.evaluation.laws import Frame, of_counts
from distal.evaluation.statistics import FloatArray

RESULTS = Path(__file__).parent / "results" / "certificate.json"
RESAMPLES = 10_000
TRIED = 10
"""Resamples of the slow way that are timed."""


def rewards(n: int, m: int) -> tuple[FloatArray, FloatArray]:
    """Two normal samples whose quantile curves cross."""
    generator = np.random.default_rng(0)
    return generator.normal(0.5, 1.5, n), generator.normal(0.0, 1.0, m)


def sorted_anew(u: FloatArray, v: FloatArray, i: Any, j: Any) -> tuple[float, float, float, FloatArray]:
    """Mean gap, AUC, violation ratio and quantile gap of one resample, from the definitions."""
    x, y = np.sort(u[i]), np.sort(v[j])
    below, upto = np.searchsorted(y, x, side="left"), np.searchsorted(y, x, side="right")
    auc = (below + upto).mean() / (2 * y.size)
    gap = x - y if x.size == y.size else _merged_gap(x, y)
    ratio = np.square(np.minimum(gap, 0)).sum() / np.square(gap).sum()
    quantile_gap = np.quantile(x, LEVELS, method="inverted_cdf") - np.quantile(
        y, LEVELS, method="inverted_cdf"
    )
    return float(x.mean() - y.mean()), float(auc), float(ratio), quantile_gap


def _merged_gap(x: FloatArray, y: FloatArray) -> FloatArray:
    """Quantile gap on cells of equal mass, where one size divides the other."""
    times = max(x.size, y.size) // min(x.size, y.size)
    return np.repeat(x, times) - y if x.size < y.size else x - np.repeat(y, times)


def check_equal() -> None:
    """Both ways give the same statistics of the same resamples."""
    u, v = rewards(500, 500)
    frame = Frame.of(u, v, LEVELS, paired=True)
    drawn = np.random.default_rng(1).integers(0, 500, size=(20, 500))
    counts = np.stack([np.bincount(row, minlength=500) for row in drawn])
    fast = of_counts(frame, counts[:, frame.pair.u_order], counts[:, frame.pair.v_order])
    for k, row in enumerate(drawn):
        mean_gap, auc, ratio, gap = sorted_anew(u, v, row, row)
        found = fast.wrong[k] / (fast.wrong[k] + fast.right[k])
        np.testing.assert_allclose(
            [fast.mean_gap[k], fast.auc[k], found], [mean_gap, auc, ratio], rtol=0, atol=1e-12
        )
        np.testing.assert_array_equal(fast.gap[k], gap)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of all threads together."""
    wall, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - own


def row(name: str, n: int, m: int, *, paired: bool, resamples: int, margins: bool = False) -> dict[str, Any]:
    """One certificate, and the slow way on a few resamples of the same samples."""
    u, v = rewards(n, m)
    view = (u - v, 0.1 * v) if margins else None
    wall, own = timed(lambda: dominance_certificate(u, v, paired=paired, resamples=resamples, margins=view))
    generator = np.random.default_rng(2)

    def slowly() -> None:
        for _ in range(TRIED):
            i = generator.integers(0, n, n)
            sorted_anew(u, v, i, i if paired else generator.integers(0, m, m))

    slow, _ = timed(slowly)
    scale = RESAMPLES / resamples
    return {
        "certificate": name,
        "rewards": n + m,
        "seconds": round(wall * scale, 2),
        "core seconds": round(own * scale, 2),
        "sorted anew, seconds": round(slow / TRIED * RESAMPLES * (2 if margins else 1), 1),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the resamples, scaled up")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    check_equal()
    resamples = RESAMPLES // 10 if arguments.quick else RESAMPLES
    rows = [
        row("50,000 pairs", 50_000, 50_000, paired=True, resamples=resamples),
        row("50,000 pairs and their margins", 50_000, 50_000, paired=True, resamples=resamples, margins=True),
        row("50,000 and 50,000 samples", 50_000, 50_000, paired=False, resamples=resamples),
        row("25,000 and 75,000 samples", 25_000, 75_000, paired=False, resamples=resamples),
        row("100,000 pairs", 100_000, 100_000, paired=True, resamples=resamples),
        row("1,000 pairs", 1_000, 1_000, paired=True, resamples=resamples),
    ]
    environment = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "resamples": RESAMPLES,
        "resamples timed": resamples,
    }
    header = list(rows[0])
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for one in rows:
        print("| " + " | ".join(str(one[name]) for name in header) + " |")
    # Figures of a loaded machine are marked by its load.
    arguments.output.write_text(
        json.dumps(
            {"environment": environment, "header": header, "rows": [list(one.values()) for one in rows]},
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
