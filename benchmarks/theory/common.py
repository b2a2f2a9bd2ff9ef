"""What the theory scripts share: slopes, quantile levels, and where results and figures go."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

mpl.use("Agg")
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "theory" / "results"
FIGURES = ROOT / "docs" / "concepts" / "figures"
CHUNK = 4_000_000
"""Numbers drawn at once."""


def generator(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def levels(count: int = 2_000_000) -> Tensor:
    """Midpoints of an even grid on (0, 1), float64: integration over levels."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def chunks(total: int, width: int) -> Iterator[int]:
    """Cut `total` rows of `width` numbers into portions that fit."""
    rows = max(1, CHUNK // width)
    for start in range(0, total, rows):
        yield min(rows, total - start)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x."""
    a = torch.tensor([math.log(value) for value in x], dtype=torch.float64)
    b = torch.tensor([math.log(value) for value in y], dtype=torch.float64)
    a = a - a.mean()
    return float((a * b).sum() / a.square().sum())


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def save(name: str, record: Mapping[str, object], figure: Figure) -> None:
    """Write the numbers and the figure, and print where they are."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    FIGURES.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    figure.savefig(FIGURES / f"{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    print(f"wrote benchmarks/theory/results/{name}.json and docs/concepts/figures/{name}.png")


def loglog(x: Sequence[float], curves: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str) -> Figure:
    """Curves on logarithmic axes, each with its slope in the legend."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, y in curves.items():
        axes.loglog(x, y, "o-", label=f"{label}: slope {slope(x, y):.2f}")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    return figure
