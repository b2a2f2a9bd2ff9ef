"""Rows of the study, each side in fresh processes: equality first, a sweep for the opponent, then A/B/B/A."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from steps.floor import gemm_rate, step_flop, tokens_of
from steps.workload import Row, batch_order, length_triples, make_pairs, make_tokenizer

HERE = Path(__file__).resolve().parent
# Largest difference of losses, by type of the computation; the cosine of the gradients must exceed the last.
LOSS_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
COSINE = 0.999
DEFAULT_TRL: dict[str, Any] = {}
TUNED_TRL: dict[str, Any] = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}


@dataclass
class Study:
    """Settings of a study.

    Attributes:
        output: JSON file with all rows that are done.
        threads: of each process.
        distal: options of Distal's trainer beside its defaults.
        sweep_steps: timed steps of each setting in the sweep.
        micro_batches: that TRL's DPO is tried with.
        timeout: seconds for one process.
        sweeping: False takes TRL without checkpointing and with precomputed reference for its best, for a quick look.
    """

    output: Path
    threads: int = 2
    distal: dict[str, Any] = field(default_factory=dict[str, Any])
    sweep_steps: int = 1
    micro_batches: Sequence[int] = (1, 2, 4, 8, 16, 64)
    timeout: int = 3600
    sweeping: bool = True

    def load(self) -> dict[str, Any]:
        """The record so far."""
        if self.output.exists():
            return json.loads(self.output.read_text())
        return {"environment": environment(self.threads), "rows": {}, "tables": {}}

    def save(self, record: dict[str, Any]) -> None:
        """Write the record with its tables."""
        record["tables"] = tables(record["rows"])
        self.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.output.with_suffix(".part")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.replace(self.output)

    def run(self, rows: Sequence[Row]) -> dict[str, Any]:
        """All rows that are not done yet; each is written when it is."""
        record = self.load()
        for row in rows:
            if row.name in record["rows"]:
                print(f"{row.name}: done before", flush=True)
                continue
            print(row.name, flush=True)
            record["rows"][row.name] = self.one(row)
            self.save(record)
        return record

    def one(self, row: Row) -> dict[str, Any]:
        """Everything about one row."""
        equality = self.equality(row)
        print(f"  equality: {equality}", flush=True)
        if not equality["equal"]:
            return {"row": json.loads(row.to_json()), "equality": equality}
        sweep, best = self.sweep(row) if self.sweeping else ([], TUNED_TRL)
        print(f"  best of TRL: {best or 'its defaults'}", flush=True)
        sides = {
            "distal": ("distal", self.distal),
            "trl best": ("trl", best),
            "trl default": ("trl", DEFAULT_TRL),
        }
        order = [*sides, *reversed(sides)]
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        rate = gemm_rate(row)
        for name in order:
            runs[name].append(self.process(row, *sides[name]))
        return {
            "row": json.loads(row.to_json()),
            "equality": equality,
            "sweep": sweep,
            "best": best,
            "gemm_flop_per_s": max(rate, gemm_rate(row)),
            "sides": {name: summary(row, parts) for name, parts in runs.items()},
        }

    def equality(self, row: Row) -> dict[str, Any]:
        """Loss and gradient of one step of a policy that has moved off its reference."""
        short = Row(**json.loads(row.to_json()) | {"warmup": 0, "steps": 1})
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / f"{side}.safetensors") for side in ("distal", "trl")]
            ours = self.process(short, "distal", self.distal, files[0])
            theirs = self.process(short, "trl", TUNED_TRL | {"micro": row.pairs}, files[1])
            if "failed" in ours or "failed" in theirs:
                return {"equal": False, "distal": ours, "trl": theirs}
            cosine, ratio = compare(files[0], files[1])
        difference = abs(ours["losses"][0] - theirs["losses"][0])
        return {
            "equal": difference <= LOSS_TOLERANCE[row.dtype] and cosine > COSINE,
            "loss": ours["losses"][0],
            "loss_of_trl": theirs["losses"][0],
            "gradient_cosine": cosine,
            "gradient_norm_ratio": ratio,
        }

    def sweep(self, row: Row) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """TRL's settings with their seconds per step, and the best of them."""
        tried: list[dict[str, Any]] = []

        def seconds(options: dict[str, Any]) -> float:
            known: dict[str, Any] | None = next((t for t in tried if t["options"] == options), None)
            if known is None:
                short = Row(**json.loads(row.to_json()) | {"steps": self.sweep_steps})
                found = self.process(short, "trl", options)
                failed = "failed" in found
                known = {
                    "options": options,
                    "seconds": None if failed else statistics.median(found["seconds"]),
                    "peak_mib": None if failed else found["peak_mib"],
                }
                tried.append(known)
                print(f"    {options}: {known['seconds']}", flush=True)
            return float("inf") if known["seconds"] is None else float(known["seconds"])

        base = dict(TUNED_TRL)
        if row.objective != "aot":  # a sort needs the whole batch in one micro-batch; DPO does not
            cut = [{**base, "micro": m, "grouped": True} for m in self.micro_batches if m <= row.pairs]
            base = min(cut, key=seconds)
        grid = product((False, True), (True, False))
        best = min(
            [{**base, "gradient_checkpointing": c, "precompute_ref_log_probs": p} for c, p in grid],
            key=seconds,
        )
        if row.device != "cpu":
            best = min([best, {**best, "torch_compile": True}], key=seconds)
        return tried, best

    def process(self, row: Row, side: str, options: dict[str, Any], gradient: str = "") -> dict[str, Any]:
        """One run of one side in a process of its own."""
        command = [sys.executable, str(HERE / "sides.py"), side, row.to_json(), json.dumps(options), gradient]
        paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        surroundings = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
            "OMP_NUM_THREADS": str(self.threads),
            "MALLOC_ARENA_MAX": "2",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=surroundings, timeout=self.timeout
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"more than {self.timeout} s"}
        if done.returncode:
            return {"failed": done.stderr[-1500:] or f"exit code {done.returncode}"}
        return json.loads(done.stdout.splitlines()[-1])


def compare(first: str, second: str) -> tuple[float, float]:
    """Cosine of two stored gradients, and the ratio of their norms, over the parameters that both have."""
    from safetensors.torch import load_file

    a, b = load_file(first), load_file(second)
    if set(a) != set(b):
        raise SystemExit(f"the sides have gradients of different parameters: {sorted(set(a) ^ set(b))[:4]}")
    dot = sum(float((a[k].double() * b[k].double()).sum()) for k in a)
    norms = [sum(float(g.double().square().sum()) for g in side.values()) ** 0.5 for side in (a, b)]
    return dot / (norms[0] * norms[1]), norms[0] / norms[1]


def summary(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the processes of one side say together."""
    failed = [run for run in runs if "failed" in run]
    if failed:
        return failed[0]
    triples = length_triples(row)
    order = batch_order(row, make_tokenizer(row.vocabulary), make_pairs(row), 0)
    timed = [[triples[i] for i in batch] for batch in order[row.warmup : row.warmup + row.steps]]
    tokens = [tokens_of(batch) for batch in timed]
    seconds = [s for run in runs for s in run["seconds"]]
    per_second = [t / s for run in runs for t, s in zip(tokens, run["seconds"], strict=True)]
    quartiles = statistics.quantiles(per_second, n=4) if len(per_second) > 1 else per_second * 3
    positions = sum(runs[0]["positions"])
    return {
        "seconds": statistics.median(seconds),
        "tokens_per_s": quartiles[1],
        "tokens_per_s_quartiles": [quartiles[0], quartiles[2]],
        "pairs_per_s": row.pairs / statistics.median(seconds),
        "positions_per_token": positions / sum(tokens),
        "flop": statistics.mean(step_flop(row, batch) for batch in timed),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "step_mib": max(run["peak_mib"] - run["before_mib"] for run in runs),
        "before_training_s": statistics.median(run["before_training_s"] for run in runs),
        "first_loss": runs[0]["losses"][0],
        "strategy": runs[0].get("strategy"),
        "all_seconds": [run["seconds"] for run in runs],
    }


def tables(rows: dict[str, Any]) -> dict[str, Any]:
    """Tables for the terminal and the documentation."""
    header = [
        "row",
        "side",
        "s per step",
        "tokens/s",
        "ratio",
        "of the floor",
        "positions per token",
        "peak MiB",
        "first loss",
    ]
    lines: list[list[Any]] = []
    for name, found in rows.items():
        sides = found.get("sides", {})
        best = sides.get("trl best", {}).get("tokens_per_s")
        for side, s in sides.items():
            if "failed" in s:
                lines.append([name, side, "failed", "", "", "", "", "", ""])
                continue
            floor = s["flop"] / found["gemm_flop_per_s"]
            ratio = s["tokens_per_s"] / best if best else ""
            lines.append(
                [name, side, s["seconds"], round(s["tokens_per_s"]), ratio, floor / s["seconds"]]
                + [s["positions_per_token"], round(s["peak_mib"]), round(s["first_loss"], 4)]
            )
    return {"against TRL": {"header": header, "rows": lines}}


def show(table: dict[str, Any]) -> None:
    """Print one table as Markdown."""
    print("| " + " | ".join(table["header"]) + " |\n|" + "---|" * len(table["header"]))
    for row in table["rows"]:
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) + " |")


def environment(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "trl", "accelerate")},
    }
