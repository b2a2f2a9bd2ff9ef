"""Bias of the stochastic gradient against the size of the sort group.

Theorem 4 of the paper says that the bias vanishes and gives no rate. Here the policy moves a location-scale
family: U = location + scale z with z normal, V = N(0, 1), so that the exact gradient is an integral over
    levels,
`int h'(Q_U(t) - Q_V(t)) (1, z(t)) dt`, and that of a sort group of b samples is `(1/b) sum_i h'(u_(i) -
v_(i)) (1, z_(i))`. A bias that all steps share is not averaged out by more steps; the noise is.

    python benchmarks/theory/gradient_bias.py
"""

from __future__ import annotations

import torch
from common import chunks, generator, levels, loglog, save, slope, table
from torch import Tensor

SIZES = [1, 2, 4, 8, 16, 32, 64, 128]
DRAWS = 40_000_000
LOCATION, SCALE, BETA = 1.0, 1.5, 1.0


def derivative(gap: Tensor) -> Tensor:
    """Slope of the logistic cost."""
    return -BETA * torch.sigmoid(-BETA * gap)


def exact() -> Tensor:
    """Gradient of the population cost in (location, scale)."""
    z = torch.special.ndtri(levels())
    pull = derivative(LOCATION + (SCALE - 1.0) * z)
    return torch.stack([pull.mean(), (pull * z).mean()])


def stochastic(b: int, repetitions: int) -> Tensor:
    """Gradients of independent sort groups, shape (repetitions, 2)."""
    random, parts = generator(100 + b), []
    for rows in chunks(repetitions, b):
        z = torch.randn(rows, b, dtype=torch.float64, generator=random).sort(-1).values
        v = torch.randn(rows, b, dtype=torch.float64, generator=random).sort(-1).values
        pull = derivative(LOCATION + SCALE * z - v)
        parts.append(torch.stack([pull.mean(-1), (pull * z).mean(-1)], -1))
    return torch.cat(parts)


def main() -> None:
    """Measure the bias at each size of the sort group."""
    truth = exact()
    rows: list[list[object]] = []
    biases = []
    for b in SIZES:
        found = stochastic(b, min(4_000_000, DRAWS // b))
        bias = found.mean(0) - truth
        noise = float(found.std(0).norm())
        error = noise / found.shape[0] ** 0.5
        biases.append(float(bias.norm()))
        cosine = float(torch.cosine_similarity(found.mean(0), truth, dim=0))
        rows.append(
            [b, float(bias[0]), float(bias[1]), biases[-1] / float(truth.norm()), error, noise, cosine]
        )
    header = [
        "b",
        "bias, location",
        "bias, scale",
        "relative bias",
        "its standard error",
        "noise",
        "cosine to exact",
    ]
    print("exact gradient", [round(x, 4) for x in truth.tolist()])
    print(table(header, rows))
    rate = slope(SIZES[4:], biases[4:])
    print(f"slope from b = 16 on: {rate:.3f}")
    figure = loglog(SIZES, {"norm of the bias": biases}, xlabel="samples sorted together, b", ylabel="bias")
    record = {"exact": truth.tolist(), "header": header, "rows": rows, "slope": rate}
    save("gradient_bias", record, figure)


if __name__ == "__main__":
    main()
