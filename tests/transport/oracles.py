"""Independent answers for the transport tests: other algorithms, or other people's code."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from distal.transport import Cost, HingeCost, LeastSquaresCost, LogisticCost, SmoothedCost, SquaredHingeCost

COSTS: dict[str, Cost] = {
    "logistic": LogisticCost(0.7),
    "hinge": HingeCost(0.3),
    "squared_hinge": SquaredHingeCost(0.5),
    "least_squares": LeastSquaresCost(-0.4),
    "smoothed": SmoothedCost(LogisticCost(2.0), 0.2),
    "quartic": lambda gap: gap**4,
}
each_cost = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Gaussian numbers in float64 from a seed of their own."""
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def samples(smallest: int = 1, largest: int = 7) -> st.SearchStrategy[Tensor]:
    """Samples in float64 on a coarse grid, so that ties within and between samples are common."""
    values = st.lists(st.integers(-12, 12).map(lambda k: k / 4), min_size=smallest, max_size=largest)
    return values.map(lambda xs: torch.tensor(xs, dtype=torch.float64))


def cheapest_pairing(u: Tensor, v: Tensor, cost: Callable[[Tensor], Tensor]) -> float:
    """The smallest mean cost over all n! pairings."""
    pairings = torch.tensor(list(permutations(range(v.numel()))))
    return float(cost(u - v[pairings]).mean(-1).min())


def linear_programme(
    u: Tensor, v: Tensor, cost: Callable[[Tensor], Tensor], a: Tensor | None = None, b: Tensor | None = None
) -> float:
    """Kantorovich's linear programme with marginals `a` and `b`, by SciPy."""
    optimize = pytest.importorskip("scipy.optimize")
    n, m = u.numel(), v.numel()
    table = cost(u[:, None] - v[None, :]).numpy()
    a_mass = np.full(n, 1 / n) if a is None else (a / a.sum()).numpy()
    b_mass = np.full(m, 1 / m) if b is None else (b / b.sum()).numpy()
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    answer = optimize.linprog(
        table.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a_mass, b_mass]), method="highs"
    )
    assert answer.status == 0, answer.message
    return float(answer.fun)


def central_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """Gradient of a scalar function by central differences."""
    steps = step * torch.eye(at.numel(), dtype=at.dtype)
    return torch.stack([(function(at + d) - function(at - d)) / (2 * step) for d in steps]).detach()


def fourth_order_difference(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-3) -> Tensor:
    """Gradient of a scalar function from values at -2, -1, 1 and 2 steps: its error is of order step^4.

    A step that large leaves little room for rounding, but no kink may lie within two steps.
    """
    near, far = (central_difference(function, at, k * step) for k in (1, 2))
    return (4 * near - far) / 3
