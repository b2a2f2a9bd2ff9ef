"""How fast the empirical transport cost approaches that of the populations, and from which side.

U = N(1, 1.5^2), V = N(0, 1), logistic cost with beta = 1. The error is of order n^(-1/2); its mean, the bias
of a sort group of n samples, is positive (the cost is jointly convex in the two laws) and of order 1/n.

    python benchmarks/theory/estimation_error.py
"""

from __future__ import annotations

import torch
from common import chunks, generator, levels, loglog, save, slope, table

from distal.transport import LogisticCost

SIZES = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
DRAWS = 24_000_000
COST = LogisticCost(1.0)


def population() -> float:
    """Integral over levels of h(1 + 0.5 z): both quantile functions are linear in the normal quantile z."""
    return float(COST(1.0 + 0.5 * torch.special.ndtri(levels())).mean())


def errors(n: int, repetitions: int, truth: float) -> torch.Tensor:
    """Empirical minus population cost, shape (repetitions,)."""
    random = generator(n)
    parts = []
    for rows in chunks(repetitions, n):
        u = 1.0 + 1.5 * torch.randn(rows, n, dtype=torch.float64, generator=random).sort(-1).values
        v = torch.randn(rows, n, dtype=torch.float64, generator=random).sort(-1).values
        parts.append(COST(u - v).mean(-1) - truth)
    return torch.cat(parts)


def main() -> None:
    """Measure error, spread and bias at each sample size."""
    truth = population()
    rows: list[list[object]] = []
    absolute, spread, bias = [], [], []
    for n in SIZES:
        found = errors(n, min(400_000, DRAWS // n), truth)
        absolute.append(float(found.abs().mean()))
        spread.append(float(found.std()))
        bias.append(float(found.mean()))
        rows.append([n, found.numel(), absolute[-1], spread[-1], bias[-1], spread[-1] / found.numel() ** 0.5])
    header = ["n", "repetitions", "E|error|", "sd", "bias", "standard error of the bias"]
    print(f"population value {truth:.4f}")
    print(table(header, rows))
    tail = slice(3, None)
    slopes = {
        "absolute": slope(SIZES[tail], absolute[tail]),
        "sd": slope(SIZES[tail], spread[tail]),
        "bias": slope(SIZES[tail], bias[tail]),
    }
    print("slopes from n = 32 on:", {key: round(value, 3) for key, value in slopes.items()})
    figure = loglog(
        SIZES, {"E|error|": absolute, "bias": bias}, xlabel="samples n", ylabel="error of the cost"
    )
    save("estimation_error", {"population": truth, "header": header, "rows": rows, "slopes": slopes}, figure)


if __name__ == "__main__":
    main()
