"""Duality: potentials read off the sort have no gap and are feasible.

python benchmarks/theory/duality.py
"""

from __future__ import annotations

import torch
from common import generator, save, table
from matplotlib.figure import Figure

from distal.transport import (
    Cost,
    HingeCost,
    LeastSquaresCost,
    LogisticCost,
    SquaredHingeCost,
    dual_potentials,
    transport_cost,
)

COSTS: dict[str, Cost] = {
    "logistic": LogisticCost(1.0),
    "hinge": HingeCost(0.0),
    "squared hinge": SquaredHingeCost(0.5),
    "least squares": LeastSquaresCost(0.5),
}
SIZES = [(8, 8), (30, 20), (200, 300), (1000, 700)]


def main() -> None:
    """Measure gap and infeasibility, and draw the potentials of one instance."""
    rows: list[list[object]] = []
    for name, cost in COSTS.items():
        gap, infeasible, concave = 0.0, 0.0, 0.0
        random = generator(0)
        for n, m in SIZES:
            u = 0.5 + 1.5 * torch.randn(n, dtype=torch.float64, generator=random)
            v = torch.randn(m, dtype=torch.float64, generator=random)
            phi, psi = dual_potentials(u, v, cost)
            costs = cost(u[:, None] - v[None, :])
            gap = max(gap, abs(float(phi.mean() + psi.mean() - transport_cost(u, v, cost))))
            infeasible = max(infeasible, float((phi[:, None] + psi[None, :] - costs).max()))
            concave = max(concave, float((phi - (costs - psi).min(1).values).abs().max()))
        rows.append([name, gap, infeasible, concave])
    header = [
        "cost",
        "largest duality gap",
        "largest violation of a constraint",
        "largest |phi - c-transform of psi|",
    ]
    print(table(header, rows))
    save("duality", {"seed": 0, "sizes": SIZES, "header": header, "rows": rows}, potentials())


def potentials() -> Figure:
    """Potentials of U = N(0.5, 1.5) against V = N(0, 1), 400 samples."""
    random = generator(1)
    u = (0.5 + 1.5 * torch.randn(400, dtype=torch.float64, generator=random)).sort().values
    v = torch.randn(400, dtype=torch.float64, generator=random)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, cost in COSTS.items():
        axes.plot(u.tolist(), dual_potentials(u, v, cost)[0].tolist(), label=name)
    axes.set_xlabel("u, nats")
    axes.set_ylabel("potential of u")
    axes.grid(visible=True, alpha=0.2)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
