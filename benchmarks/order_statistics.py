"""`order_statistics: stream` beside `batch`: agreement of gradients, and dominance on held-out pairs, by batch size.

The policy is a log-bilinear bigram model: a causal language model with a head, small enough for thousands of optimizer
steps, scored and trained by the product's engine. Completions are drawn from the reference; a hidden taste for tokens
and chance decide which one of a pair is chosen, and the taste turns round for a part of the pairs that the model cannot
tell from the others. All runs take equally many steps of equal step size, so that a larger batch means better order
statistics (and less noise), not fewer updates.

1. *Gradients.* At a few steps of each run, from the same weights and the same batch, the gradient of the sorted batch
   and that of the running laws. Their cosines with the gradient of the exact objective on 4,096 fresh pairs (the
   population): of the single step, which is mostly noise where the batch is small, and of the *mean* gradient over the
   population cut into batches of that size, where no noise is left and only the bias of the order statistics shows.
2. *Outcome.* First-order violation ratio on 4,096 held-out pairs after the last step: margins of the policy against
   those of the reference, and rewards of chosen against rejected responses.
3. *Half-life and place.* Along the runs of the sorted batch, also at a four times larger step size: the stream's
   gradient for several half-lives; and for other places of a sample in its running law: its rank alone, and a place
   interpolated between its neighbours.

    python benchmarks/order_statistics.py          # tables, JSON and figure; about ten minutes on one idle core
    python benchmarks/order_statistics.py --toy    # seconds, writes nothing
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor, nn

mpl.use("Agg")
from bigram_world import (
    BETA,
    CONTRARY,
    PLACES,
    POPULATION,
    Bigram,
    World,
    cosine,
    cut_gradient,
    exact_engine,
    flat_gradient,
    running_laws,
    stream_gradient,
)
from matplotlib.figure import Figure

from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.stream import OrderStatistics
from distal.types import TokenRow

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "concepts" / "figures" / "order_statistics.png"
SIZES = (4, 16, 64, 256)
LOOKS = (20, 60, 160)
"""Steps at which gradients are compared."""
HALF_LIVES = (1.0, 4.0, 16.0, 64.0)
DEFAULT_HALF_LIFE = 16.0
LEARNING_RATE = 0.005
FAST, FAST_SEEDS = 0.02, 3
"""A step size at which the policy leaves its past behind: for part 3 alone."""


def compare(
    model: nn.Module,
    world: World,
    name: str,
    rows: list[TokenRow],
    laws: OrderStatistics | None,
    beside: dict[float, OrderStatistics],
) -> dict[str, float]:
    """Cosines of the ways to compute this step's gradient."""
    exact, size = exact_engine(name), len(rows) // 2
    exact.step(model, world.population)
    population = flat_gradient(model)
    exact.step(model, rows)
    batch = flat_gradient(model)
    ways: dict[str, Callable[[list[TokenRow]], Tensor]] = {}
    if laws is not None:
        ways["stream"] = lambda some: stream_gradient(model, some, laws)
    for half_life, other in beside.items():
        ways[f"half-life {half_life:g}"] = lambda some, other=other: stream_gradient(model, some, other)
    if beside:
        default = beside[DEFAULT_HALF_LIFE]
        for label, place in PLACES.items():
            ways[label] = lambda some, place=place: place.gradient(model, some, default)
    found = {
        "batch, population": cosine(batch, population),
        "batch, mean": cosine(cut_gradient(model, world.population, name, size), population),
    }
    for label, way in ways.items():
        found[f"{label}, population"] = cosine(way(rows), population)
        found[f"{label}, batch"] = cosine(way(rows), batch)
        found[f"{label}, mean"] = cosine(way(world.population), population)
    return found


def train(
    world: World, name: str, way: str, size: int, looks: Sequence[int], rate: float = LEARNING_RATE
) -> dict[str, Any]:
    """One run; `way` is batch or stream."""
    torch.manual_seed(0)
    model = Bigram(world.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    exact = exact_engine(name)
    laws = running_laws(name, world.pool, size, DEFAULT_HALF_LIFE) if way == "stream" else None
    engine = exact
    if laws is not None:  # cut into micro-batches, as where memory is short
        engine = WholeBatchEngine(
            exact.setting.objective, "paired", MicroBatchLimit(units=32), statistics=laws
        )
    beside = {
        half_life: running_laws(name, world.pool, size, half_life)
        for half_life in HALF_LIVES
        if way == "batch" and name != "dpo"
    }
    cosines: dict[str, list[float]] = defaultdict(list)
    for step, rows in enumerate(world.batches(size, max(looks)), start=1):
        if step in looks:
            for key, value in compare(model, world, name, rows, laws, beside).items():
                cosines[key].append(value)
        output = engine.step(model, rows)
        for other in beside.values():
            other.update(output.batch)
        optimizer.step()
        optimizer.zero_grad()
    means = {key: statistics.fmean(values) for key, values in cosines.items()}
    return {
        "objective": name,
        "way": way,
        "batch": size,
        "seed": world.seed,
        "cosines": means,
    } | world.outcome(model)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else float("nan"),
    }


def gathered(
    runs: list[dict[str, Any]], pick: Callable[[dict[str, Any]], dict[str, float]]
) -> list[dict[str, Any]]:
    """Numbers of each objective, way and batch size, over the seeds."""
    values: dict[tuple[str, str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for key, value in pick(run).items():
            values[run["objective"], run["way"], run["batch"]][key].append(value)
    return [
        {
            "objective": objective,
            "way": way,
            "batch": batch,
            **{key: spread(some) for key, some in found.items()},
        }
        for (objective, way, batch), found in values.items()
    ]


def shown(cell: dict[str, float]) -> str:
    """Mean and spread for a table."""
    return f"{cell['mean']:.3f} ± {cell['sd']:.3f}"


def outcomes(run: dict[str, Any]) -> dict[str, float]:
    """What a run ends with."""
    return {key: run[key] for key in ("violation of margins", "violation of rewards", "accuracy")}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> dict[str, Any]:
    """As the documentation reads it."""
    return {"header": list(header), "rows": [list(row) for row in rows]}


def tables(
    gradients: list[dict[str, Any]], ends: list[dict[str, Any]], of_fast: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Part 1, part 2, and part 3 by step size."""

    def cells(row: dict[str, Any], keys: Iterable[str]) -> list[str]:
        first = [f"`{row['objective']}`", str(row["batch"])]
        return first + [shown(row[key]) if key in row else "" for key in keys]

    agreement = ("batch, mean", "stream, mean", "batch, population", "stream, population", "stream, batch")
    outcome = ("violation of margins", "violation of rewards", "accuracy")
    labels = [f"half-life {h:g}" for h in HALF_LIVES]
    found = {
        "gradients": table(
            (
                "objective",
                "batch",
                "mean, sorted",
                "mean, stream",
                "step, sorted",
                "step, stream",
                "stream to sorted",
            ),
            (
                cells(row, agreement)
                for row in gradients
                if row["way"] == "stream" or row["objective"] == "dpo"
            ),
        ),
        "outcomes": table(
            ("objective", "batch", "order statistics", *outcome),
            ([*cells(row, ())[:2], row["way"], *cells(row, outcome)[2:]] for row in ends),
        ),
    }
    for speed, rows in (("slow", gradients), ("fast", of_fast)):
        some = [row for row in rows if row["way"] == "batch" and row["objective"] != "dpo"]
        for part, own in (("half-lives", labels), ("places", list(PLACES))):
            for what in ("mean", "batch"):
                sorted_too = ["batch"] if what == "mean" else []
                keys = [f"{label}, {what}" for label in (*sorted_too, *own)]
                header = ("objective", "batch", *(["sorted batch"] if sorted_too else []), *own)
                found[f"{part} {speed} {what}"] = table(header, (cells(row, keys) for row in some))
    return found


def print_table(name: str, found: dict[str, Any]) -> None:
    """As Markdown."""
    print(f"\n{name}\n\n| " + " | ".join(found["header"]) + " |\n|" + "---|" * len(found["header"]))
    for row in found["rows"]:
        print("| " + " | ".join(row) + " |")


def figure(gradients: list[dict[str, Any]], ends: list[dict[str, Any]]) -> Figure:
    """Agreement of gradients above, violation ratios below."""
    drawn = Figure(figsize=(10, 6.5), layout="constrained")
    panels = drawn.subplots(2, 2)
    outcome = "violation of margins"
    for column, name in enumerate(("aot", "aot_unpaired")):
        above, below = panels[0][column], panels[1][column]
        of = [row for row in gradients if row["objective"] == name and row["way"] == "stream"]
        for way in ("batch", "stream"):
            for what, style in (("mean", "o-"), ("population", "s--")):
                cells = [row[f"{way}, {what}"] for row in of]
                above.errorbar(
                    [row["batch"] for row in of],
                    [cell["mean"] for cell in cells],
                    [cell["sd"] for cell in cells],
                    fmt=style,
                    capsize=3,
                    color="C0" if way == "batch" else "C1",
                    label=f"{way}, {'mean gradient' if what == 'mean' else 'single step'}",
                )
        above.set(
            xscale="log", xlabel="optimizer batch (pairs)", ylabel="cosine with the population's", title=name
        )
        for color, (objective, way) in enumerate([(name, "batch"), (name, "stream"), ("dpo", "batch")]):
            of = [row for row in ends if row["objective"] == objective and row["way"] == way]
            below.errorbar(
                [row["batch"] for row in of],
                [row[outcome]["mean"] for row in of],
                [row[outcome]["sd"] for row in of],
                fmt="o-",
                capsize=3,
                color=f"C{color}",
                label=objective if objective == "dpo" else way,
            )
        below.set(xscale="log", xlabel="optimizer batch (pairs)", ylabel=f"{outcome}, held out")
        for axes in (above, below):
            axes.grid(visible=True, alpha=0.2)
            axes.legend(fontsize=8)
    return drawn


def parse() -> argparse.Namespace:
    """Options of the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="one seed, small sizes, nothing written")
    return parser.parse_args()


def main() -> None:
    """All runs of all seeds."""
    arguments = parse()
    torch.set_num_threads(1)
    begun = time.monotonic()
    seeds, sizes, looks, fresh = arguments.seeds, SIZES, LOOKS, POPULATION
    if arguments.toy:
        seeds, sizes, looks, fresh = 2, (4, 16), (2, 4), 64
    runs: list[dict[str, Any]] = []
    fast: list[dict[str, Any]] = []
    for seed in range(seeds):
        world = World(seed, pool=4 * fresh, fresh=fresh)
        for name in ("aot", "aot_unpaired", "dpo"):
            for way in ("batch",) if name == "dpo" else ("batch", "stream"):
                for size in sizes:
                    runs.append(train(world, name, way, size, looks))
        fast += [
            train(world, name, "batch", size, looks, FAST)
            for name in ("aot", "aot_unpaired")
            for size in sizes
            if seed < FAST_SEEDS
        ]
        print(f"seed {seed + 1} of {seeds}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    gradients, ends = gathered(runs, lambda run: run["cosines"]), gathered(runs, outcomes)
    of_fast = gathered(fast, lambda run: run["cosines"])
    found = tables(gradients, ends, of_fast)
    for name, one in found.items():
        print_table(name, one)
    drawn = figure(gradients, ends)
    if arguments.toy:
        return
    record = {
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": 1,
            "machine": platform.machine(),
            "seconds": round(time.monotonic() - begun),
        },
        "setting": {
            "seeds": seeds,
            "steps": max(LOOKS),
            "looks": LOOKS,
            "population": POPULATION,
            "beta": BETA,
            "learning_rate": LEARNING_RATE,
            "learning_rate_fast": FAST,
            "seeds_fast": min(seeds, FAST_SEEDS),
            "contrary": CONTRARY,
            "half_life": DEFAULT_HALF_LIFE,
        },
        "tables": found,
        "gradients": gradients,
        "gradients_fast": of_fast,
        "outcomes": ends,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "order_statistics.json").write_text(json.dumps(record, indent=1) + "\n")
    drawn.savefig(FIGURE, dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
