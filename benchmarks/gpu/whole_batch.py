"""The whole-batch engine on a GPU: same gradient at any cut, memory and price of every strategy beside DPO.

Random weights in the shape of Qwen2.5-0.5B (so nothing is downloaded), bf16 weights, AOT. For each optimizer batch,
micro-batch size and strategy (`retain` and `deferred` with what memory is free; a DPO step, which takes one pass, for
the price): seconds per step (median of five after two warm-ups), peak allocated memory, and the cosine of the AOT
gradient to that of `recompute` at the largest micro-batch that fits.

    python benchmarks/gpu/whole_batch.py --output $OUT/whole_batch.json       # one GPU, about 10 minutes
    python benchmarks/gpu/whole_batch.py --toy                                # the same code on the CPU, seconds
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, Qwen2Config

from distal.objectives import get_objective
from distal.scoring import score_row_list
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.types import TokenRow

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "toy": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


RUNS = [("aot", "recompute"), ("aot", "retain"), ("aot", "deferred"), ("dpo", "single")]


def make_model(shape: str, *, lora: bool, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Random weights; a LoRA adapter whose B is not zero, so that its gradient is that of a run under way."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**SHAPES[shape]), dtype=dtype).to(device)
    if lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, config)
    return model.train()


def make_rows(n_pairs: int, vocabulary: int, length: int) -> list[TokenRow]:
    """Pairs of random tokens: prompts and completions of uniformly random lengths up to half of `length`."""
    random = Random(0)
    rows: list[TokenRow] = []
    for unit in range(n_pairs):
        prompt = [random.randrange(vocabulary) for _ in range(random.randrange(length // 8, length // 2))]
        for side in range(2):
            completion = [
                random.randrange(vocabulary) for _ in range(random.randrange(length // 8, length // 2))
            ]
            rows.append(TokenRow(prompt + completion, len(prompt), side == 0, unit, unit))
    return rows


def with_reference(model: torch.nn.Module, rows: list[TokenRow]) -> list[TokenRow]:
    """Reference scores a few nats off the policy's, so that the sort has something to do."""
    import dataclasses

    random = Random(1)
    scores = score_row_list(model, rows)
    return [
        dataclasses.replace(row, reference_score=float(score) + random.gauss(0, 5))
        for row, score in zip(rows, scores, strict=True)
    ]


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """All gradients as one float32 vector on the host."""
    return torch.cat([p.grad.float().flatten().cpu() for p in model.parameters() if p.grad is not None])


def measure(
    model: torch.nn.Module, rows: list[TokenRow], micro: int, repeats: int, run: tuple[str, str]
) -> dict[str, Any]:
    """Step time, peak memory and gradient of one way of cutting the batch."""
    cuda = next(model.parameters()).is_cuda
    objective, strategy = run
    engine = WholeBatchEngine(
        get_objective(objective, beta=0.01),
        "paired",
        MicroBatchLimit(units=micro),
        strategy=strategy,  # pyright: ignore[reportArgumentType]
    )
    seconds: list[float] = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + 2):
        model.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        loss = engine.step(model, rows).loss
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {
        "loss": loss.item(),  # pyright: ignore[reportPossiblyUnboundVariable]
        "seconds": statistics.median(seconds[2:]),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "gradient": gradient(model),
    }


def run(
    shape: str, *, lora: bool, batches: list[int], micros: list[int], options: argparse.Namespace
) -> list[Any]:
    """All rows of one model."""
    dtype = torch.float32 if options.toy else torch.bfloat16
    model = make_model(shape, lora=lora, dtype=dtype, device=options.device)
    table: list[dict[str, Any]] = []
    for batch in batches:
        rows = with_reference(model, make_rows(batch, SHAPES[shape]["vocab_size"], options.length))
        whole: list[torch.Tensor] = []  # the gradient of the largest cut that fits
        for micro in sorted((m for m in micros if m <= batch), reverse=True):
            for ran in RUNS if lora else [run for run in RUNS if run[1] != "deferred"]:
                row: dict[str, Any] = {"lora": lora, "batch": batch, "micro": micro, "run": " ".join(ran)}
                try:
                    row |= measure(model, rows, micro, options.repeats, ran)
                except torch.cuda.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    table.append({**row, "out_of_memory": True})
                    continue
                flat = row.pop("gradient")
                if ran[0] == "aot":
                    whole = whole or [flat]
                    row["cosine"] = torch.nn.functional.cosine_similarity(flat, whole[0], dim=0).item()
                table.append(row)
                print(json.dumps(row), flush=True)
    return table


def main() -> None:
    """LoRA and full fine-tuning, several batches and micro-batches."""
    parser = argparse.ArgumentParser(description="The whole-batch engine on a GPU")
    parser.add_argument("--toy", action="store_true", help="a toy model on the CPU")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    options.device = "cpu" if options.toy else "cuda"
    options.length = 64 if options.toy else 1024
    options.repeats = 2 if options.toy else 5
    shape = "toy" if options.toy else "qwen2.5-0.5b"
    batches, micros = ([8, 16], [2, 8]) if options.toy else ([8, 64, 256], [4, 16])
    rows = [
        r
        for lora in (True, False)
        for r in run(shape, lora=lora, batches=batches, micros=micros, options=options)
    ]
    environment = {
        "device": "cpu" if options.toy else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shape": shape,
    }
    if options.output:
        options.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")
    print(json.dumps(environment))


if __name__ == "__main__":
    main()
