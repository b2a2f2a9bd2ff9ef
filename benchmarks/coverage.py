"""How often the intervals of a certificate hold the truth, by simulation on known laws.

    python benchmarks/coverage.py              # a table, and benchmarks/results/coverage.json; about 7 minutes
    python benchmarks/coverage.py --trials 60  # a rough look

Each cell draws data from laws whose population values are known (closed form, or 2,000,000 quantiles), makes the 95 %
intervals of `dominance_certificate`, and counts how often they hold the truth. A cell is "below" where its rate is more
than two standard errors of the simulation under 95 %, "above" where it is more than two over it. Above is no fault
where the truth is an end of the scale (a violation ratio of 0 or 1), which an interval can miss on one side only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from distal.evaluation import LEVELS, DominanceCertificate, dominance_certificate
from distal.evaluation.statistics import FloatArray

RESULTS = Path(__file__).parent / "results" / "coverage.json"
CONFIDENCE = 0.95
RESAMPLES = 400
SHOWN = (0.1, 0.5, 0.9)
"""Levels of the quantile gap that are counted."""

Draw = Callable[[np.random.Generator, int], dict[str, Any]]
"""Arguments of `dominance_certificate` for n samples a side."""


@dataclass(frozen=True)
class Law:
    """A way to draw data, with the truth about it.

    Attributes:
        name: for the table.
        draw: data of n samples a side.
        truth: statistic -> population value; quantile gaps at `SHOWN` as `gap 0.1`, ...
        sizes: numbers of samples a side.
    """

    name: str
    draw: Draw
    truth: dict[str, float]
    sizes: tuple[int, ...] = (50, 200, 2000)


def truth_of(
    qu: Callable[[FloatArray], FloatArray], qv: Callable[[FloatArray], FloatArray]
) -> dict[str, float]:
    """Mean gap, violation ratios, AUC and quantile gaps of two independent laws, from their quantile functions."""
    levels = (np.arange(2_000_000) + 0.5) / 2_000_000
    x, y = qu(levels), qv(levels)
    gap = x - y
    below, upto = np.searchsorted(y, x, side="left"), np.searchsorted(y, x, side="right")
    integrated = np.cumsum(gap) / gap.size
    found = {
        "mean gap": float(gap.mean()),
        "auc": float((below + upto).mean() / (2 * y.size)),
        "ratio": float(np.square(np.minimum(gap, 0)).sum() / np.square(gap).sum()),
        "ratio, order 2": float(np.square(np.minimum(integrated, 0)).sum() / np.square(integrated).sum()),
    }
    at = np.array(SHOWN)
    return found | {f"gap {level}": float(a - b) for level, a, b in zip(SHOWN, qu(at), qv(at), strict=True)}


def independent(
    name: str, qu: Callable[[FloatArray], FloatArray], qv: Callable[[FloatArray], FloatArray], **more: Any
) -> Law:
    """Two independent samples, drawn through their quantile functions."""

    def draw(generator: np.random.Generator, n: int) -> dict[str, Any]:
        u, v = qu(generator.random(n)), qv(generator.random(n))
        return {"preferred": u, "other": v, "paired": False, "order": 2}

    return Law(name, draw, truth_of(qu, qv), **more)


def gaussian_pairs(correlation: float) -> Law:
    """Correlated pairs: N(0.6, 1.5^2) and N(0, 1)."""

    def draw(generator: np.random.Generator, n: int) -> dict[str, Any]:
        shared, own = generator.normal(size=(2, n))
        u = 0.6 + 1.5 * (correlation * shared + math.sqrt(1 - correlation**2) * own)
        return {"preferred": u, "other": shared, "paired": True}

    truth = truth_of(lambda p: 0.6 + 1.5 * norm.ppf(p), norm.ppf)
    del truth["ratio, order 2"]
    spread = math.sqrt(1.5**2 + 1 - 2 * 1.5 * correlation)
    truth["accuracy"] = float(norm.cdf(0.6 / spread))
    return Law(f"pairs, correlation {correlation:g}", draw, truth)


def clustered(per_prompt: int) -> Law:
    """Pairs of which several share a prompt and half of their variance; n counts pairs."""

    def draw(generator: np.random.Generator, n: int) -> dict[str, Any]:
        prompts = np.arange(n) // per_prompt
        common = generator.normal(size=(2, prompts[-1] + 1))[:, prompts]
        own = generator.normal(size=(2, n))
        u, v = math.sqrt(0.5) * (common + own)
        return {"preferred": 0.6 + 1.5 * u, "other": v, "paired": True, "clusters": prompts}

    truth = truth_of(lambda p: 0.6 + 1.5 * norm.ppf(p), norm.ppf)
    del truth["ratio, order 2"]
    truth["accuracy"] = float(norm.cdf(0.6 / math.sqrt(1.5**2 + 1)))
    return Law(f"pairs, {per_prompt} to a prompt", draw, truth, sizes=(200, 2000))


def at_equal_lengths() -> Law:
    """Rewards `0.5 length + 0.4 [preferred] + noise`, lengths 1 to 5, preferred ones longer; 0.4 is left."""
    p, q = np.array([0.1, 0.15, 0.2, 0.25, 0.3]), np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    overlap = p * q / (p + q)
    overlap /= overlap.sum()

    def draw(generator: np.random.Generator, n: int) -> dict[str, Any]:
        lengths = generator.choice(5, n, p=p) + 1, generator.choice(5, n, p=q) + 1
        u = 0.5 * lengths[0] + 0.4 + generator.normal(size=n)
        v = 0.5 * lengths[1] + generator.normal(size=n)
        return {"preferred": u, "other": v, "paired": False, "lengths": lengths}

    grid = np.linspace(-8, 14, 200_001)
    reached = sum(w * norm.cdf(grid - 0.5 * (k + 1)) for k, w in enumerate(overlap))

    def quantile(levels: FloatArray) -> FloatArray:
        return np.interp(levels, reached, grid)

    truth = truth_of(lambda levels: quantile(levels) + 0.4, quantile)
    del truth["ratio, order 2"]
    # The two laws are shifted copies, so that numbers on a grid may differ by rounding only.
    truth["ratio"] = 0.0
    return Law("equal lengths", draw, truth, sizes=(200, 2000))


def laws() -> list[Law]:
    """What is tried."""
    normal: Callable[[FloatArray], FloatArray] = norm.ppf
    return [
        independent(
            "normal, crossing far out", lambda p: 0.87 + 2 * norm.ppf(p), normal, sizes=(50, 100, 200, 2000)
        ),
        independent("normal, crossing near the middle", lambda p: 0.435 + 2 * norm.ppf(p), normal),
        independent("normal, shifted by 0.3", lambda p: 0.3 + norm.ppf(p), normal),
        independent("normal, shifted by 1", lambda p: 1 + norm.ppf(p), normal, sizes=(50, 200)),
        independent(
            "whole numbers (many ties)",
            lambda p: np.round(0.5 + 1.5 * norm.ppf(p)),
            lambda p: np.round(np.asarray(norm.ppf(p), dtype=np.float64)),
        ),
        independent(
            "Student, 4 degrees of freedom", lambda p: 0.5 + 1.5 * t.ppf(p, 4), lambda p: t.ppf(p, 4)
        ),
        independent("exponential against normal", lambda p: -np.log1p(-p), normal),
        gaussian_pairs(0.8),
        clustered(4),
        at_equal_lengths(),
    ]


def intervals(c: DominanceCertificate) -> dict[str, tuple[float, float] | None]:
    """The intervals of a certificate by the names of the truth; of the length-controlled part, if there is one."""
    part = c if c.length_controlled is None else c.length_controlled
    curves = part.curves
    found: dict[str, tuple[float, float] | None] = {
        "mean gap": part.mean_gap_ci,
        "auc": part.auc_ci,
        "ratio": part.violation_ratio_ci,
        "ratio, order 2": None if part.second_order is None else part.second_order.violation_ratio_ci,
        "accuracy": c.accuracy_ci,
    }
    for level in SHOWN:
        k = int(np.argmin(np.abs(LEVELS - level)))
        found[f"gap {level}"] = curves.gap_low[k], curves.gap_high[k]
    return found


def cover(law: Law, number: int, n: int, trials: int, resamples: int) -> list[dict[str, Any]]:
    """Rates of one law and size, a row per statistic; `number` keeps the draws of the laws apart."""
    held, width, missed_above = (dict.fromkeys(law.truth, 0.0) for _ in range(3))
    for trial in range(trials):
        data = law.draw(np.random.default_rng([number, trial, n]), n)
        u, v = data.pop("preferred"), data.pop("other")
        found = intervals(dominance_certificate(u, v, resamples=resamples, seed=trial, **data))
        for name, value in law.truth.items():
            low, high = found[name] or (math.nan, math.nan)
            held[name] += low - 1e-9 <= value <= high + 1e-9
            width[name] += (high - low) / trials
            missed_above[name] += (value > high + 1e-9) / trials
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / trials)
    return [
        {
            "law": law.name,
            "n": n,
            "interval of": name,
            "truth": round(value, 4),
            "covered": round(held[name] / trials, 3),
            "truth above": round(missed_above[name], 3),
            "width": round(width[name], 3),
            "verdict": _verdict(held[name] / trials, error),
            "trials": trials,
        }
        for name, value in law.truth.items()
    ]


def _verdict(rate: float, error: float) -> str:
    if rate < CONFIDENCE - 2 * error:
        return "below"
    return "above" if rate > CONFIDENCE + 2 * error else "as stated"


def pivot(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row per law and size, a column per statistic: the rate, with its verdict where it is not as stated."""
    statistics = list(dict.fromkeys(row["interval of"] for row in rows))
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        word = "" if row["verdict"] == "as stated" else f" {row['verdict']}"
        of_law = cells.setdefault((row["law"], row["n"]), {})
        of_law[row["interval of"]] = f"{row['covered']:.3f}{word}"
    return {
        "header": ["law", "n", *statistics],
        "rows": [[*key, *(found.get(name, "") for name in statistics)] for key, found in cells.items()],
    }


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=150, help="simulated data sets per law and size")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    start, rows = time.process_time(), list[dict[str, Any]]()
    for number, law in enumerate(laws()):
        for n in law.sizes:
            # Large samples take longer and hold fewer surprises.
            trials = arguments.trials if n < 1000 else max(20, arguments.trials * 2 // 5)
            rows += cover(law, number, n, trials, arguments.resamples)
            told = ", ".join(f"{row['interval of']} {row['covered']:.3f}" for row in rows[-len(law.truth) :])
            print(f"{law.name}, n = {n}: {told}", flush=True)
    environment = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "resamples": arguments.resamples,
        "processor seconds": round(time.process_time() - start),
    }
    details = {"header": list(rows[0]), "rows": [list(row.values()) for row in rows]}
    record = {"environment": environment, "tables": {"rates": pivot(rows), "details": details}}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    for word in ("below", "above", "as stated"):
        print(f"{word}: {sum(row['verdict'] == word for row in rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
