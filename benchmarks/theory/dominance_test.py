"""Size and power of the test of almost dominance.

U = N(a s, (1 + s)^2) against V = N(0, 1), with s = 1: the quantile gap at level t is `a + z(t)`, so that the
violation ratio of the populations is a function of a. Size: a is solved for a ratio equal to the threshold
0.25, the edge of the null, where the rejection rate should be the level 0.05. Power: ratios below the
threshold.

    python benchmarks/theory/dominance_test.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from common import generator, levels, save, table
from matplotlib.figure import Figure
from torch import Tensor

from distal.transport import dominance_test
from distal.transport.dominance import Order

THRESHOLD, LEVEL, RESAMPLES = 0.25, 0.05, 199
SIZES = [50, 100, 200, 400, 1000]
RATIOS = [0.25, 0.15, 0.05]
Z = torch.special.ndtri(levels(400_000))
DENSITY = torch.exp(-Z.square() / 2) / math.sqrt(2 * math.pi)


def population_ratio(a: float, order: int) -> float:
    """Violation ratio of the populations; the integrated gap is `a t - density(z(t))`."""
    curve = a + Z if order == 1 else a * levels(Z.numel()) - DENSITY
    return float(curve.clamp(max=0).square().sum() / curve.square().sum())


def location(ratio: float, order: int) -> float:
    """The a whose population ratio is `ratio`, by bisection."""
    low, high = -4.0, 4.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if population_ratio(middle, order) > ratio else (low, middle)
    return low


def draw(n: int, a: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Independent samples of both laws."""
    noise = torch.randn(2, n, dtype=torch.float64, generator=random)
    return a + 2.0 * noise[0], noise[1]


def rejections(n: int, a: float, order: Order, method: str, repetitions: int) -> float:
    """Share of repetitions in which dominance is declared."""
    random, count = generator(n), 0
    bootstrap = method == "bootstrap"
    for seed in range(repetitions):
        u, v = draw(n, a, random)
        count += dominance_test(
            u,
            v,
            order,
            LEVEL,
            threshold=THRESHOLD,
            method=method,  # pyright: ignore[reportArgumentType]
            resamples=RESAMPLES if bootstrap else None,
            seed=seed if bootstrap else None,
        ).dominates
    return count / repetitions


def main(arguments: Sequence[str] | None = None) -> None:
    """Tabulate rejection rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=600)
    repetitions = parser.parse_args(arguments).repetitions
    error = math.sqrt(LEVEL * (1 - LEVEL) / repetitions)
    rows: list[list[object]] = []
    for order in (1, 2):
        for method in ("bootstrap", "asymptotic"):
            for ratio in RATIOS:
                a = location(ratio, order)
                rates = [rejections(n, a, order, method, repetitions) for n in SIZES]
                rows.append([order, method, ratio, *rates])
                print(order, method, ratio, rates, flush=True)
    header = ["order", "method", "population ratio", *(f"n = {n}" for n in SIZES)]
    print(table(header, rows))
    print(f"at ratio {THRESHOLD} the rate should be {LEVEL} within two standard errors, {2 * error:.3f}")
    record = {"repetitions": repetitions, "resamples": RESAMPLES, "level": LEVEL, "threshold": THRESHOLD}
    save(
        "dominance_test",
        {**record, "standard_error": error, "header": header, "rows": rows},
        draw_rates(rows),
    )


def draw_rates(rows: list[list[object]]) -> Figure:
    """Rejection rates of the bootstrap test against sample size."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for order, method, ratio, *rates in rows:
        if method == "bootstrap":
            axes.semilogx(
                SIZES, [float(str(rate)) for rate in rates], "o-", label=f"order {order}, ratio {ratio}"
            )
    axes.axhline(LEVEL, color="black", linestyle=":", label="level")
    axes.set_xlabel("samples n = m")
    axes.set_ylabel("rejection rate")
    axes.grid(visible=True, alpha=0.2)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
