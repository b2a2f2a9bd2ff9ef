"""Speed of one-dimensional transport and soft sorting, forward and backward, beside other implementations.

    python benchmarks/transport.py                 # table, and benchmarks/results/transport.json
    python benchmarks/transport.py --device cuda

Times are those of the fastest of many calls, in milliseconds. "forward" marks what has no gradient or was
timed without it. Rewards are normal with a standard deviation of 100 nats, so that the soft sort (strength
0.1) pools most of the large gaps of small samples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ot
import torch
from scipy.optimize import isotonic_regression
from scipy.stats import wasserstein_distance
from torch import Tensor

from distal.transport import LogisticCost, soft_sort, transport_cost

SIZES = [64, 1024, 4096, 65536, 1_000_000]
RESULTS = Path(__file__).parent / "results" / "transport.json"
COST = LogisticCost(0.01)
BUDGET = 2.0
"""Seconds spent on one measurement."""


def distal_hard(u: Tensor, v: Tensor) -> None:
    """Transport cost of equal counts and its gradient."""
    transport_cost(u, v, COST).backward()


def distal_unequal(u: Tensor, v: Tensor) -> None:
    """Transport cost against two thirds of the other sample, and its gradient."""
    transport_cost(u, v[: max(1, 2 * v.numel() // 3)], COST).backward()


def distal_l2(u: Tensor, v: Tensor) -> None:
    """Soft sort of both samples, cost and gradient."""
    COST(soft_sort(u, 0.1) - soft_sort(v, 0.1)).mean().backward()


def distal_entropic(u: Tensor, v: Tensor) -> None:
    """The same, entropic."""
    COST(soft_sort(u, 0.1, "entropic") - soft_sort(v, 0.1, "entropic")).mean().backward()


def naive_sort(u: Tensor, v: Tensor) -> None:
    """What a user would write for equal counts: two sorts and a mean, without any check."""
    COST(u.sort().values - v.sort().values).mean().backward()


def pot_cost(u: Tensor, v: Tensor) -> None:
    """POT's one-dimensional Wasserstein distance on tensors, with gradient."""
    torch.as_tensor(ot.wasserstein_1d(u, v, p=2)).backward()


def pot_emd(u: Tensor, v: Tensor) -> None:
    """POT's exact one-dimensional solver on arrays, forward."""
    ot.emd2_1d(u.detach().cpu().double().numpy(), v.cpu().double().numpy(), metric="sqeuclidean")


def scipy_distance(u: Tensor, v: Tensor) -> None:
    """SciPy's first Wasserstein distance, forward."""
    wasserstein_distance(u.detach().cpu().numpy(), v.cpu().numpy())


def scipy_soft_sort(u: Tensor, v: Tensor) -> None:
    """L2 soft sort of both samples through SciPy's compiled isotonic regression, forward."""
    ramp = np.arange(1, u.numel() + 1) / 0.1
    for x in (u.detach(), v):
        isotonic_regression(ramp - np.sort(x.cpu().double().numpy()))


def python_soft_sort(u: Tensor, v: Tensor) -> None:
    """L2 soft sort of both samples by pool-adjacent-violators in Python, forward."""
    for x in (u.detach(), v):
        ordered = x.sort().values.tolist()
        sums: list[float] = []
        counts: list[int] = []
        for k, value in enumerate(ordered):
            sums.append((k + 1) / 0.1 - value)
            counts.append(1)
            while len(sums) > 1 and sums[-2] * counts[-1] > sums[-1] * counts[-2]:
                total, count = sums.pop(), counts.pop()
                sums[-1] += total
                counts[-1] += count


METHODS: dict[str, Callable[[Tensor, Tensor], None]] = {
    "Distal, hard sort": distal_hard,
    "Distal, hard sort, n != m": distal_unequal,
    "Distal, soft sort l2": distal_l2,
    "Distal, soft sort entropic": distal_entropic,
    "torch.sort, naive": naive_sort,
    "POT wasserstein_1d": pot_cost,
    "POT emd2_1d (forward)": pot_emd,
    "SciPy wasserstein_distance (forward)": scipy_distance,
    "SciPy isotonic_regression (forward)": scipy_soft_sort,
    "PAV in Python (forward)": python_soft_sort,
}


def measure(method: Callable[[Tensor, Tensor], None], n: int, device: str) -> float:
    """Time of the fastest call, ms: on a shared machine the least disturbed one."""
    random = torch.Generator().manual_seed(n)
    u, v = (100 * torch.randn(2, n, generator=random)).to(device)
    u = u.requires_grad_()
    method(u, v)
    times: list[float] = []
    stop = time.perf_counter() + BUDGET
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 200):
        _wait(device)
        start = time.perf_counter()
        method(u, v)
        _wait(device)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine(device: str) -> dict[str, object]:
    """Where the numbers come from."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "POT", "scipy", "numpy")},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    print("| ms | " + " | ".join(f"n = {n:,}" for n in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    rows: dict[str, list[float]] = {}
    for name, method in METHODS.items():
        rows[name] = [measure(method, n, options.device) for n in SIZES]
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in rows[name]) + " |", flush=True)
    record = {"machine": machine(options.device), "sizes": SIZES, "milliseconds": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
