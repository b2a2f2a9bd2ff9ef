"""What compiling decoder blocks one by one costs on a CPU, and what it gives.

A random Llama (hidden size 256, 4 blocks, vocabulary 1,024), float32, all weights trained, one thread; six
micro-batches of four pairs with prompts and answers of 20 to 90 tokens. Forward and backward pass with compiled blocks
and without by turns, 24 of each; seconds are those of the processor.

    python benchmarks/compile_blocks.py      # a table, and benchmarks/results/compile_blocks.json; two minutes
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from steps.study import environment, show
from transformers import LlamaConfig, LlamaForCausalLM

from distal.scoring import PADDED, PREFIX_SHARED, Layout, score_rows
from distal.scoring.compilation import compile_blocks, uncompiled
from distal.types import TokenRow

RESULTS = Path(__file__).parent / "results" / "compile_blocks.json"
VOCABULARY, BATCHES, ROUNDS = 1024, 6, 4


def pairs(n: int, random: Random) -> list[TokenRow]:
    """Random pairs."""

    def tokens() -> list[int]:
        return [random.randrange(3, VOCABULARY) for _ in range(random.randrange(20, 90))]

    rows: list[TokenRow] = []
    for unit in range(n):
        prompt = tokens()
        rows += [TokenRow(prompt + tokens(), len(prompt), side == 0, unit, unit) for side in range(2)]
    return rows


def make_model() -> Any:
    """Random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config).train()


def step(model: Any, rows: list[TokenRow], layout: Layout) -> float:
    """Seconds of the processor for one pass, forward and backward."""
    start = time.process_time()
    score_rows(model, rows, layout).sum().backward()
    model.zero_grad()
    return time.process_time() - start


def measure(layout: Layout) -> dict[str, Any]:
    """One row of the table."""
    random = Random(0)
    batches = [pairs(4, random) for _ in range(BATCHES)]
    model = make_model()
    start = time.process_time()
    if not compile_blocks([model], layout):
        raise SystemExit("blocks cannot be compiled here; the line above says why")
    took = time.process_time() - start
    seconds: dict[str, list[float]] = {"compiled": [], "as it is": []}
    for turn in range(ROUNDS + 1):
        for rows in batches:
            one = step(model, rows, layout)
            with uncompiled(model):
                other = step(model, rows, layout)
            if turn:  # the first one warms up
                seconds["compiled"].append(one)
                seconds["as it is"].append(other)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"layout": layout.name, "compiling": took, **medians, "all": seconds}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(layout) for layout in (PADDED, PREFIX_SHARED)]
    table = {
        "header": ["layout", "compiling, s", "compiled, s", "as it is, s", "times as fast"],
        "rows": [
            [f["layout"], f["compiling"], f["compiled"], f["as it is"], f["as it is"] / f["compiled"]]
            for f in found
        ],
    }
    show(table)
    record = {"environment": environment(1), "runs": found, "tables": {"compiled": table}}
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
