"""Time to gather and sort the scores of one optimizer batch over two processes.

What a step pays beside its forward and backward passes: the table of scores, labels and row numbers is built and
gathered over gloo, put back into the order of the batch, and the objective and its coefficients are computed on every
rank. The rows are those of a real step (`TokenRow`s), so reading them counts too. Medians of the slowest rank.

    torchrun --nproc-per-node 2 benchmarks/gather.py         # a table, and benchmarks/results/gather.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from distal.objectives import get_objective
from distal.training.batch import ScoredBatch, gather_batch, refuse_non_finite
from distal.types import TokenRow

RESULTS = Path(__file__).parent / "results" / "gather.json"
SIZES = (1024, 8192, 65_536)


def share(n_scores: int, rank: int, world: int, *, paired: bool) -> tuple[list[TokenRow], torch.Tensor]:
    """This rank's rows of a batch of so many scores, and their policy scores."""
    width = 2 if paired else 1
    generator = torch.Generator().manual_seed(rank)
    reference = (-80 + 20 * torch.randn(n_scores, generator=generator)).tolist()
    tokens = list(range(200))
    rows = [
        TokenRow(
            tokens, 50, side == 0 if paired else unit % 3 > 0, unit, unit, reference[unit * width + side]
        )
        for unit in range(rank, n_scores // width, world)
        for side in range(width)
    ]
    moved = torch.randn(len(rows), generator=generator)
    return rows, torch.tensor([row.reference_score for row in rows]) + moved


def median_over_ranks(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of the slowest rank; all begin together."""
    times: list[float] = []
    for _ in range(repeats + 2):
        dist.barrier()
        started = time.perf_counter()
        run()
        slowest = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        times.append(1000 * slowest.item())
    return statistics.median(times[2:])


def measure(n_scores: int, name: str, repeats: int) -> dict[str, object]:
    """One row: gathering, and loss with coefficients."""
    objective = get_objective(name)
    paired = objective.needs == "paired"
    rows, scores = share(n_scores, dist.get_rank(), dist.get_world_size(), paired=paired)
    kind = "paired" if paired else "unpaired"

    def gather() -> ScoredBatch:
        batch = gather_batch(kind, rows, scores)
        refuse_non_finite(batch)
        return batch

    batch = gather()

    def coefficients() -> torch.Tensor:
        policy = batch.policy.detach().requires_grad_()
        return torch.autograd.grad(objective(batch.sequence_scores(policy)).loss, policy)[0]

    gathered = median_over_ranks(gather, repeats)
    sorted_ = median_over_ranks(coefficients, repeats)
    return {"objective": name, "scores": n_scores, "gather_ms": gathered, "loss_ms": sorted_}


def main() -> None:
    """All sizes, both objectives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rows = [measure(n, name, arguments.repeats) for name in ("aot", "aot_unpaired") for n in SIZES]
    if dist.get_rank() == 0:
        environment = {
            "processes": dist.get_world_size(),
            "backend": "gloo",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")
        print("| objective | scores | gathering (ms) | sort, loss, coefficients (ms) | together |")
        print("|---|---:|---:|---:|---:|")
        for row in rows:
            gathered, loss = float(str(row["gather_ms"])), float(str(row["loss_ms"]))
            print(
                f"| `{row['objective']}` | {row['scores']:,} | {gathered:.1f} | {loss:.1f} | {gathered + loss:.1f} |"
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
