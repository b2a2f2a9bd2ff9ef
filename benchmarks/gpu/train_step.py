"""A training step of Distal beside TRL's on one GPU, at the shapes of Mistral-7B, Llama-3.1-8B and Qwen2.5-0.5B.

The protocol is that of benchmarks/train_step.py: same random checkpoint, data, batches of 64 pairs, optimizer and loss,
equality of loss and gradient first, TRL at its defaults and at the best of a sweep, fresh processes in order A/B/B/A,
share of the floor from the matrix-product rate of the same session, peak memory. bfloat16 weights on both sides. Rows
are done from the top and kept: a run that is cut off goes on with the next row. One --set takes less than 25 minutes
on an H200.

    python benchmarks/gpu/train_step.py --set lora-7b --output $OUT/train_step_lora-7b.json
    python benchmarks/gpu/train_step.py --toy                     # all sets at toy size on the CPU, end to end
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from steps.study import Study, show, tables
from steps.workload import VOCABULARIES, Row

SETS: dict[str, list[dict[str, Any]]] = {
    # 64 pairs x 2 x 1024 tokens do not fit into one micro-batch of TRL without checkpointing: that is a result.
    "lora-7b": [
        {"shape": "mistral-7b", "tuning": "lora", "objective": "aot", "workload": "ultrafeedback"},
        {"shape": "mistral-7b", "tuning": "lora", "objective": "aot", "workload": "fixed"},
    ],
    "lora-8b": [{"shape": "llama-3.1-8b", "tuning": "lora", "objective": "aot", "workload": "ultrafeedback"}],
    "full-0.5b": [
        {"shape": "qwen2.5-0.5b", "tuning": "full", "objective": "aot", "workload": "ultrafeedback"},
        {"shape": "qwen2.5-0.5b", "tuning": "full", "objective": "dpo", "workload": "ultrafeedback"},
        {"shape": "qwen2.5-0.5b", "tuning": "full", "objective": "aot", "workload": "fixed"},
    ],
    "lora-0.5b": [{"shape": "qwen2.5-0.5b", "tuning": "lora", "objective": "aot", "workload": "hh"}],
    # A reference of its own, gradients and AdamW in bfloat16: 4 x 14.5 GB beside activations.
    "full-7b": [{"shape": "mistral-7b", "tuning": "full", "objective": "aot", "workload": "ultrafeedback"}],
    "dpo-7b": [{"shape": "mistral-7b", "tuning": "lora", "objective": "dpo", "workload": "ultrafeedback"}],
}


def rows_of(name: str, options: argparse.Namespace) -> list[Row]:
    """The rows of one set; steps are few for the large models, whose steps take many seconds."""
    rows: list[Row] = []
    for settings in SETS[name]:
        large = settings["shape"] != "qwen2.5-0.5b"
        row = Row(
            vocabulary=VOCABULARIES[settings["shape"]],
            dtype="bfloat16",
            divide_lengths=1,
            fixed_length=1024,
            warmup=2 if large else 5,
            steps=3 if large else 15,
            device="cuda",
            **settings,
        )
        if options.toy:
            toy = {"shape": "toy", "vocabulary": 128, "pairs": 4, "divide_lengths": 16, "fixed_length": 16}
            row = dataclasses.replace(row, **toy, warmup=1, steps=1, device="cpu")
        rows.append(row)
    return rows


def main() -> None:
    """One set, or all of them as toys."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=SETS, help="which rows")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not options.toy and not (options.set and options.output):
        parser.error("--set and --output are needed, or --toy")
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.set] if options.set else SETS:
            output = options.output or Path(folder) / f"{name}.json"
            micro = (2, 8) if options.toy else (2, 4, 8, 16)
            study = Study(
                output, threads=2 if options.toy else 8, distal={"layout": "auto"}, micro_batches=micro
            )
            record = study.run(rows_of(name, options))
            show(tables(record["rows"])["against TRL"])


if __name__ == "__main__":
    main()
