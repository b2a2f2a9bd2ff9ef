"""Sorting is the cheapest coupling for every convex cost, and not for the 0/1 cost.

For equal counts against all n! pairings, for unequal counts against Kantorovich's linear programme.

    python benchmarks/theory/sorted_is_optimal.py
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import torch
from common import generator, save, table
from matplotlib.figure import Figure
from scipy.optimize import linprog
from torch import Tensor

from distal.transport import Cost, HingeCost, LeastSquaresCost, LogisticCost, SquaredHingeCost, transport_cost

COSTS: dict[str, Cost] = {
    "logistic": LogisticCost(1.0),
    "hinge": HingeCost(0.0),
    "squared hinge": SquaredHingeCost(0.5),
    "least squares": LeastSquaresCost(0.5),
    "0/1 (control)": lambda gap: (gap < 0).to(gap.dtype),
}
TRIALS = 60


def cheapest_pairing(u: Tensor, v: Tensor, cost: Cost) -> float:
    """Smallest mean cost over all pairings."""
    pairings = torch.tensor(list(permutations(range(v.numel()))))
    return float(cost(u - v[pairings]).mean(-1).min())


def linear_programme(u: Tensor, v: Tensor, cost: Cost) -> float:
    """Smallest cost over all couplings."""
    n, m = u.numel(), v.numel()
    marginals = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    answer = linprog(
        cost(u[:, None] - v[None, :]).numpy().ravel(), A_eq=marginals, b_eq=masses, method="highs"
    )
    return float(answer.fun)


def excess(cost: Cost, n: int, m: int, random: torch.Generator) -> float:
    """How much dearer the sorted coupling is than the cheapest one, on one random instance."""
    u = torch.randn(n, dtype=torch.float64, generator=random)
    v = torch.randn(m, dtype=torch.float64, generator=random)
    cheapest = cheapest_pairing(u, v, cost) if n == m else linear_programme(u, v, cost)
    return float(transport_cost(u, v, cost)) - cheapest


def main() -> None:
    """Run all instances."""
    rows: list[list[object]] = []
    for name, cost in COSTS.items():
        random = generator(0)
        equal = [excess(cost, n, n, random) for n in (3, 4, 5, 6) for _ in range(TRIALS)]
        unequal = [
            excess(cost, n, m, random) for n, m in ((3, 5), (7, 4), (6, 7)) for _ in range(TRIALS // 2)
        ]
        rows.append(
            [name, max(map(abs, equal)), max(map(abs, unequal)), sum(x > 1e-9 for x in equal) / len(equal)]
        )
    header = [
        "cost",
        "largest excess, n = m",
        "largest excess, n != m",
        "instances where sorting is not optimal",
    ]
    print(table(header, rows))
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([str(row[0]) for row in rows], [max(float(str(row[1])), 1e-17) for row in rows])
    axes.set_xscale("log")
    axes.set_xlabel("largest excess of the sorted pairing over the best of n! (n <= 6)")
    axes.invert_yaxis()
    save("sorted_is_optimal", {"seed": 0, "trials": TRIALS, "header": header, "rows": rows}, figure)


if __name__ == "__main__":
    main()
