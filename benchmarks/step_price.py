"""What the whole batch costs: an AOT step of each strategy beside a DPO step with the same micro-batches.

DPO does not couple the batch, so its step is one pass of forward and backward over the same micro-batches: the price
that every preference trainer pays. All steps run in one process on the same model and rows, in an order that is
reversed from round to round; reported is the median over rounds of the ratio to DPO within the round, with quartiles.
Peak memory comes from fresh processes: optimizer batches of 4 and 512 pairs at the same micro-batch.

Goals: deferred <= 1.10, retain <= 1.05, recompute <= 1.50 (LoRA) and <= 1.35 (full), recompute against a
checkpointed DPO <= 1.05; peak memory of 512 pairs within 10 % of 4 (recompute), plus the declared buffer (deferred).

    python benchmarks/step_price.py          # tables, and benchmarks/results/step_price.json; about 10 minutes
    python benchmarks/step_price.py --toy    # seconds
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from distal.objectives import get_objective
from distal.scoring import score_row_list
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.peak import measured_peak
from distal.types import TokenRow

VOCABULARY = 4096
RESULTS = Path(__file__).parent / "results" / "step_price.json"
GOALS = {
    ("LoRA", "deferred"): 1.10,
    ("LoRA", "retain"): 1.05,
    ("LoRA", "recompute"): 1.50,
    ("full", "retain"): 1.05,
    ("full", "recompute"): 1.35,
    ("full, DPO checkpointed", "recompute"): 1.05,
}


def make_model(*, lora: bool, hidden: int = 256, layers: int = 6) -> Any:
    """Random weights; with LoRA an adapter whose B is not zero, as in a run under way."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False))
    return model.train()


def make_rows(n_pairs: int, length: int) -> list[TokenRow]:
    """Pairs of rows of one length, so that a bigger batch is nothing but more of the same."""
    random = Random(0)
    rows: list[TokenRow] = []
    for unit in range(n_pairs):
        prompt = [random.randrange(3, VOCABULARY) for _ in range(length // 4)]
        for side in range(2):
            completion = [random.randrange(3, VOCABULARY) for _ in range(length - len(prompt))]
            rows.append(TokenRow(prompt + completion, len(prompt), side == 0, unit, unit))
    return rows


def with_reference(model: Any, rows: list[TokenRow]) -> list[TokenRow]:
    """References a few nats off the policy, so that the sort has something to do."""
    random = Random(1)
    scores = score_row_list(model, rows)
    return [
        TokenRow(
            row.input_ids,
            row.prompt_length,
            row.desirable,
            row.unit,
            row.source_row,
            float(s) + random.gauss(0, 5),
        )
        for row, s in zip(rows, scores, strict=True)
    ]


def seconds(model: Any, rows: list[TokenRow], objective: str, strategy: str, micro_batch: int) -> float:
    """One optimizer batch: loss and gradient."""
    engine = WholeBatchEngine(
        get_objective(objective, beta=0.1),
        "paired",
        MicroBatchLimit(units=micro_batch),
        strategy=strategy,  # pyright: ignore[reportArgumentType]
        memory_budget=None if strategy in ("auto", "single", "recompute") else 2**40,
    )
    model.zero_grad()
    start = time.perf_counter()
    engine.step(model, rows)
    return time.perf_counter() - start


def compare(
    setting: str, rounds: int, n_pairs: int, length: int, micro_batch: int, layers: int
) -> list[dict[str, Any]]:
    """Rows of one table: each strategy against DPO."""
    lora = setting.startswith("LoRA")
    model = make_model(lora=lora, layers=layers)
    rows = with_reference(model, make_rows(n_pairs, length))
    runs = [("dpo", "single"), ("aot", "recompute")]
    if "checkpointed" not in setting:
        runs += [("aot", "retain")] + ([("aot", "deferred")] if lora else [])
    times: dict[tuple[str, str], list[float]] = {run: [] for run in runs}
    for round_number in range(rounds + 1):
        for run in runs if round_number % 2 == 0 else reversed(runs):
            if "checkpointed" in setting:
                switch = (
                    "gradient_checkpointing_enable" if run[0] == "dpo" else "gradient_checkpointing_disable"
                )
                getattr(model, switch)()
            taken = seconds(model, rows, *run, micro_batch)
            if round_number > 0:  # the first warms up
                times[run].append(taken)
    table: list[dict[str, Any]] = []
    for run in runs[1:]:
        ratios = sorted(a / b for a, b in zip(times[run], times["dpo", "single"], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        table.append(
            {
                "setting": setting,
                "strategy": run[1],
                "seconds": statistics.median(times[run]),
                "dpo_seconds": statistics.median(times["dpo", "single"]),
                "ratio": middle,
                "quartiles": [low, high],
                "goal": GOALS.get((setting, run[1])),
            }
        )
    return table


def run_memory_row(strategy: str, n_pairs: int, length: int, micro_batch: int, layers: int) -> None:
    """Peak resident memory of two steps; prints JSON."""
    model = make_model(lora=True, layers=layers)
    rows = [
        TokenRow(r.input_ids, r.prompt_length, r.desirable, r.unit, r.source_row, -500.0)
        for r in make_rows(n_pairs, length)
    ]
    engine = WholeBatchEngine(
        get_objective("aot", beta=0.1),
        "paired",
        MicroBatchLimit(units=micro_batch),
        strategy=strategy,  # pyright: ignore[reportArgumentType]
        memory_budget=None if strategy == "recompute" else 2**40,
    )
    # Not ru_maxrss: a child inherits the peak of the process that started it.
    with measured_peak(torch.device("cpu")) as peak:
        for _ in range(2):
            model.zero_grad()
            engine.step(model, rows)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    buffer = n_pairs * trained if strategy == "deferred" else 0
    row = {"strategy": strategy, "pairs": n_pairs, "peak_bytes": peak.bytes, "declared_buffer": buffer}
    print(json.dumps(row))


def memory_row(*arguments: object) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--row", *map(str, arguments)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"row {arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """All tables and a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--toy", action="store_true", help="seconds instead of minutes; not a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.row:
        strategy, *numbers = arguments.row
        run_memory_row(strategy, *map(int, numbers))
        return
    n_pairs, length, micro_batch, layers = (8, 16, 2, 1) if arguments.toy else (32, 96, 4, 6)
    rounds = 1 if arguments.toy else arguments.rounds
    prices = [
        row
        for setting in ("LoRA", "full", "full, DPO checkpointed")
        for row in compare(setting, rounds, n_pairs, length, micro_batch, layers)
    ]
    print("| setting | strategy | AOT s | DPO s | ratio (quartiles) | goal |\n|---|---|---:|---:|---:|---:|")
    for row in prices:
        low, high = row["quartiles"]
        goal = "" if row["goal"] is None else f"{row['goal']:.2f}"
        print(
            f"| {row['setting']} | {row['strategy']} | {row['seconds']:.2f} | {row['dpo_seconds']:.2f} | "
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {goal} |"
        )
    sizes = (4, 8) if arguments.toy else (4, 512)
    memory = [
        memory_row(s, n, length // 3, micro_batch, layers) for s in ("recompute", "deferred") for n in sizes
    ]
    print("\n| strategy | pairs | peak MiB | declared buffer MiB | without the buffer, against the smaller |")
    print("|---|---:|---:|---:|---:|")
    for i, row in enumerate(memory):
        smaller = memory[i - i % 2]
        net = row["peak_bytes"] - row["declared_buffer"]
        row["net_ratio"] = net / (smaller["peak_bytes"] - smaller["declared_buffer"])
        print(
            f"| {row['strategy']} | {row['pairs']} | {row['peak_bytes'] / 2**20:.0f} | "
            f"{row['declared_buffer'] / 2**20:.0f} | {row['net_ratio']:.3f} |"
        )
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    workload = {
        "pairs": n_pairs,
        "length": length,
        "micro_batch": micro_batch,
        "layers": layers,
        "rounds": rounds,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment, "workload": workload, "prices": prices, "memory": memory}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
