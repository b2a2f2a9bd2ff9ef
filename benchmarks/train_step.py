"""A training step of Distal beside TRL's: same checkpoint, data, batches, optimizer and loss.

For each row: first the loss and the gradient of one step must agree (a policy that has moved off its reference).
Then TRL is given its best: activation checkpointing on and off, reference scores precomputed or not, for DPO also the
micro-batch, with pairs of each batch ordered by length. Then Distal at its defaults, TRL at its best and TRL at its
defaults run in fresh processes, forwards and backwards through that list. AOT sorts the whole batch of 64 pairs, which
TRL can only hold as one micro-batch. Tokens are counted with the prompt on both sides and without padding, for
everybody; seconds are from the end of one step to the end of the next, data loading and metrics included. TRL computes
entropy, mean logit and top-1 accuracy in every step, which cannot be switched off. Reference scores that are computed
beforehand are not in a step's time but in `before_training_s`, on both sides.

    python benchmarks/train_step.py --against trl           # all rows; hours on two cores. Done rows are kept
    python benchmarks/train_step.py --against trl --toy     # seconds per row, nothing is measured
    python benchmarks/train_step.py --ablation              # one technique switched off at a time
    python benchmarks/train_step.py --profile profile.txt   # operations of one step by their own time
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from steps.floor import gemm_rate
from steps.study import Study, environment, show, summary
from steps.workload import Row

RESULTS = Path(__file__).parent / "results"
WORKLOADS = ("ultrafeedback", "hh", "summarize", "fixed")
ABLATION: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "prompts shared (layout: packed)": {"layout": "packed"},
    "nothing padded (layout: padded)": {"layout": "padded"},
    "the fused head (logits kept)": {"own_head": True},
    "all of these": {"layout": "padded", "own_head": True},
    "kept graphs (strategy: recompute)": {"strategy": "recompute"},
    "kept activations (activation checkpointing)": {"gradient_checkpointing": True},
    "token budgets (micro-batches of one pair)": {"micro_batch_size": 1},
}


def rows_of(options: argparse.Namespace) -> list[Row]:
    """The rows that were asked for, the most telling first."""
    common: dict[str, Any] = {"steps": options.steps, "warmup": options.warmup, "shape": options.shape}
    common["divide_lengths"] = options.divide_lengths
    if options.toy:
        common |= {"shape": "toy", "pairs": 4, "divide_lengths": 16, "fixed_length": 16, "steps": 2}
    return [
        Row(workload=w, vocabulary=v, dtype=d, objective=o, tuning=t, **common)
        for o in options.objectives
        for t in options.tunings
        for w in options.workloads
        for d in options.dtypes
        for v in options.vocabularies
    ]


def ablation(study: Study, row: Row) -> dict[str, Any]:
    """Seconds and memory with one technique off at a time, forwards and backwards through the list."""
    from dataclasses import fields

    from distal.training import AlignmentConfig

    known = {f.name for f in fields(AlignmentConfig)} | {"own_head"}
    settings = {name: o for name, o in ABLATION.items() if set(o) <= known}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for name in [*settings, *reversed(settings)]:
        runs[name].append(study.process(row, "distal", settings[name]))
        print(f"  {name}: {runs[name][-1].get('seconds', runs[name][-1])}", flush=True)
    found = {name: summary(row, parts) for name, parts in runs.items()}
    whole = found["as it comes"]
    lines = [
        [name, "failed", "", ""]
        if "failed" in s
        else [name, s["seconds"], s["seconds"] / whole["seconds"], round(s["peak_mib"])]
        for name, s in found.items()
    ]
    header = ["switched off", "s per step", "times the whole", "peak MiB"]
    return {"row": json.loads(row.to_json()), "sides": found, "table": {"header": header, "rows": lines}}


def main() -> None:
    """Rows, tables, JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", choices=["trl"])
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--toy", action="store_true", help="tiny rows that measure nothing")
    parser.add_argument("--shape", default="small")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[32768, 1024, 131072])
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--objectives", nargs="+", choices=["aot", "dpo"], default=["aot", "dpo"])
    parser.add_argument("--tunings", nargs="+", choices=["full", "lora"], default=["full"])
    parser.add_argument("--divide-lengths", type=int, default=4, help="recorded lengths over this")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="no sweep over TRL's settings: not for results")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.toy:
        options.vocabularies, options.workloads, options.warmup = [128], options.workloads[:1], 1
    with tempfile.TemporaryDirectory() as folder:
        name = "train_step_ablation.json" if options.ablation else "train_step.json"
        options.output = options.output or (Path(folder) if options.toy else RESULTS) / name
        run(options)


def run(options: argparse.Namespace) -> None:
    """What was asked for."""
    study = Study(
        options.output, threads=options.threads, distal={"layout": "auto"}, sweeping=not options.quick
    )
    rows = rows_of(options)
    if options.profile:
        asked = study.distal | {"profile": str(options.profile.resolve())}
        print(study.process(rows[0], "distal", asked).get("failed", f"see {options.profile}"))
    elif options.ablation:
        record: dict[str, Any] = {"environment": environment(options.threads), "rows": {}, "tables": {}}
        for row in rows:
            found = ablation(study, row)
            record["rows"][row.name], record["tables"][row.name] = found, found["table"]
            show(found["table"])
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    elif options.against:
        show(study.run(rows)["tables"]["against TRL"])
    else:
        rates = [gemm_rate(row) / 1e9 for row in rows[:1] for _ in range(3)]
        print(
            f"matrix products: {statistics.median(rates):.0f} GFLOP/s; say --against trl, --ablation or --profile"
        )


if __name__ == "__main__":
    main()
