"""The saturated case: where the laws coincide and the cost is a squared hinge, the error is of order 1/n.

U and V uniform on (0, 1), squared hinge with margin 0: the population cost is 0, and its empirical value has
mean exactly 1 / (6 (n + 1)). The paper's bound of order n^(-1/2) is not tight there.

    python benchmarks/theory/saturated.py
"""

from __future__ import annotations

import torch
from common import chunks, generator, loglog, save, slope, table

from distal.transport import SquaredHingeCost

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
DRAWS = 16_000_000
COST = SquaredHingeCost(0.0)


def main() -> None:
    """Compare the mean of the empirical cost with the closed form."""
    rows: list[list[object]] = []
    means = []
    for n in SIZES:
        random, values = generator(n), []
        for count in chunks(min(400_000, DRAWS // n), n):
            u, v = torch.rand(2, count, n, dtype=torch.float64, generator=random).sort(-1).values
            values.append(COST(u - v).mean(-1))
        found = torch.cat(values)
        means.append(float(found.mean()))
        error = float(found.std()) / found.numel() ** 0.5
        exact = 1 / (6 * (n + 1))
        rows.append([n, means[-1], exact, (means[-1] - exact) / error])
    header = ["n", "mean empirical cost", "1 / (6 (n + 1))", "difference in standard errors"]
    print(table(header, rows))
    rate = slope(SIZES[3:], means[3:])
    print(f"slope from n = 8 on: {rate:.3f}")
    curves = {"mean empirical cost": means, "n^(-1/2), the bound's rate": [0.1 * n**-0.5 for n in SIZES]}
    figure = loglog(SIZES, curves, xlabel="samples n", ylabel="cost")
    save("saturated", {"header": header, "rows": rows, "slope": rate}, figure)


if __name__ == "__main__":
    main()
