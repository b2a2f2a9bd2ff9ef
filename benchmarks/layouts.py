"""What a layout saves on a CPU: forward and backward passes over one optimizer batch, by layout.

Random pairs of recorded lengths (Anthropic HH, helpful-base), 32 of them; a random Llama of 6 layers and hidden size
256; vocabularies of 1,000 and 32,000; micro-batches of 2,048 and 8,192 tokens. Scores are compared each time. The
layouts take turns, in an order that is reversed from round to round; reported is the median over rounds. Seconds are
those of the processor, on one thread, so that other work on the machine counts little.

    python benchmarks/layouts.py          # a table, and benchmarks/results/layouts.json; about 6 minutes
    python benchmarks/layouts.py --toy    # seconds
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))

from steps.study import show

from distal.scoring import PACKED, PADDED, PREFIX_SHARED, Layout, score_rows
from distal.types import TokenRow

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "layouts.json"
LAYOUTS: list[Layout] = [PADDED, PACKED, PREFIX_SHARED]


def pairs_of_recorded_lengths(n: int, vocabulary: int, longest: int) -> list[TokenRow]:
    """Random tokens, in the lengths (prompt, chosen, rejected) of real pairs."""
    random = Random(0)
    recorded = json.loads((FOLDER / "data" / "lengths.json").read_text())["sets"]["hh"]["triples"]
    fitting = [lengths for lengths in recorded if lengths[0] + max(lengths[1:]) <= longest]
    rows: list[TokenRow] = []
    for unit, (p, *answers) in enumerate(fitting[:n]):
        prompt = [random.randrange(vocabulary) for _ in range(max(1, p))]
        for side, length in enumerate(answers):
            answer = [random.randrange(vocabulary) for _ in range(max(1, length))]
            rows.append(TokenRow(prompt + answer, len(prompt), side == 0, unit, unit))
    return rows


def make_model(vocabulary: int, *, hidden: int, layers: int) -> Any:
    """Random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        use_cache=False,
    )
    return LlamaForCausalLM(config).train()


def step(model: Any, rows: list[TokenRow], layout: Layout, budget: int) -> tuple[float, torch.Tensor]:
    """Seconds of the processor for all micro-batches, forward and backward, and the scores."""
    groups = layout.cut_by_tokens(rows, 2, budget)
    scores = torch.zeros(len(rows))
    model.zero_grad()
    start = time.process_time()
    for group in groups:
        members = [unit * 2 + side for unit in group for side in range(2)]
        found = score_rows(model, [rows[i] for i in members], layout)
        found.sum().backward()
        scores[members] = found.detach()
    return time.process_time() - start, scores


def measure(vocabulary: int, budget: int, *, toy: bool, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table for one vocabulary and one size of micro-batches."""
    rows = pairs_of_recorded_lengths(8 if toy else 32, vocabulary, 512)
    model = make_model(vocabulary, hidden=32 if toy else 256, layers=2 if toy else 6)
    seconds: dict[str, list[float]] = {layout.name: [] for layout in LAYOUTS}
    first: torch.Tensor | None = None
    for turn in range(rounds + 1):
        for layout in LAYOUTS if turn % 2 else reversed(LAYOUTS):
            took, scores = step(model, rows, layout, budget)
            first = scores if first is None else first
            torch.testing.assert_close(scores, first, rtol=1e-5, atol=1e-3)
            if turn:  # the first one warms up
                seconds[layout.name].append(took)
    return [
        {
            "vocabulary": vocabulary,
            "tokens_per_micro_batch": budget,
            "layout": layout.name,
            "tokens": places(layout, rows, budget),
            "seconds": statistics.median(seconds[layout.name]),
            "all_seconds": seconds[layout.name],
        }
        for layout in LAYOUTS
    ]


def places(layout: Layout, rows: list[TokenRow], budget: int) -> int:
    """Tokens that all micro-batches lay out, with padding."""
    groups = layout.cut_by_tokens(rows, 2, budget)
    return sum(
        layout.places([rows[unit * 2 + side] for unit in group for side in range(2)]) for group in groups
    )


def table(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Header and rows, for people."""
    base = {
        (r["vocabulary"], r["tokens_per_micro_batch"]): r["seconds"]
        for r in results
        if r["layout"] == "padded"
    }
    return {
        "header": [
            "vocabulary",
            "tokens per micro-batch",
            "layout",
            "places",
            "CPU seconds",
            "against padded",
        ],
        "rows": [
            [
                f"{r['vocabulary']:,}",
                f"{r['tokens_per_micro_batch']:,}",
                f"`{r['layout']}`",
                f"{r['tokens']:,}",
                r["seconds"],
                f"{base[r['vocabulary'], r['tokens_per_micro_batch']] / r['seconds']:.2f} x",
            ]
            for r in results
        ],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="seconds, nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    for vocabulary in (1_000, 32_000):
        for budget in (2_048, 8_192):
            results += measure(
                vocabulary, budget, toy=arguments.toy, rounds=1 if arguments.toy else arguments.rounds
            )
            show(table(results[-len(LAYOUTS) :]))
    show(table(results))
    if arguments.toy:
        return
    record = {
        "environment": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "threads": 1,
            "cores": os.cpu_count(),
            "load_average_at_end": os.getloadavg(),
        },
        "results": results,
        "tables": {"layouts": table(results)},
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
