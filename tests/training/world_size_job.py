"""One rank of the world-size tests: runs every case in one process group and writes rank 0's gradients.

Usage: python -m torch.distributed.run --nproc-per-node=W world_size_job.py OUTPUT
"""

from __future__ import annotations

import dataclasses
import random
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from distal.objectives import get_objective
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.ranks import GradientSync, without_sync
from distal.training.stream import initial_statistics
from distal.types import TokenRow

OBJECTIVES = {
    "aot": (partial(get_objective, "aot", beta=0.1), True),
    "aot soft": (partial(get_objective, "aot", beta=0.1, sort="soft", soft_sort_strength=0.5), True),
    "aot_unpaired": (partial(get_objective, "aot_unpaired", beta=0.1), False),
    "dpo": (partial(get_objective, "dpo", beta=0.1), True),
    "ipo": (partial(get_objective, "ipo"), True),
    "kto": (partial(get_objective, "kto"), False),
}
STREAMED = {"aot", "aot_unpaired"}
"""Objectives that also run with order statistics from running laws; then the second of two steps counts."""
WEIGHTED = {"aot", "dpo", "kto"}
"""Objectives that also run on rows with weights: those of units 1, 2, 3, 1, ... times a third."""
# 9 units make uneven shares, 2 leave two ranks of 4 without any; a limit in tokens cuts every rank differently.
CASES = {
    "9 units by 2": (9, MicroBatchLimit(units=2)),
    "9 units by tokens": (9, MicroBatchLimit(tokens=50)),
    "2 units by 1": (2, MicroBatchLimit(units=1)),
    "9 units at once": (9, MicroBatchLimit(units=5)),
}


def make_model(dtype):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(
        vocab_size=64, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0, **sizes
    )
    return LlamaForCausalLM(config).to(dtype)


def make_rows(n_units, paired, tie):
    """Rows of very different lengths; in the unpaired ones every rank of 2 holds one label only.

    With `tie`, two of more units have the same rows: equal scores, which sorting must break alike on every rank.
    """
    draw = random.Random(1)
    rows = []
    for unit in range(n_units):
        prompt = [1] + [draw.randrange(3, 64) for _ in range(draw.randrange(0, 9))]
        for side in range(2 if paired else 1):
            completion = [draw.randrange(3, 64) for _ in range(draw.randrange(1, 14))] + [2]
            desirable = side == 0 if paired else unit % 2 == 0
            reference = draw.gauss(-40, 5)
            rows.append(TokenRow(prompt + completion, len(prompt), desirable, unit, unit, reference))
    width = 2 if paired else 1
    if tie and n_units > 2:
        rows[2 * width : 3 * width] = rows[:width]
    return rows


class Units(list[Any]):
    """Units as the running laws see a training set."""

    def __init__(self, rows, paired):
        super().__init__(rows[:: 2 if paired else 1])
        self.kind = "paired" if paired else "unpaired"
        self.reference_scores = np.array([row.reference_score for row in rows])
        self.labels = np.array([row.desirable for row in rows])


def statistics(objective, rows, paired):
    units: Any = Units(rows, paired)
    return initial_statistics(objective, units, global_batch_size=9, half_life=2.0, capacity=100)


def wrapped(model, how):
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp2":
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    return model


def with_lora(dtype):
    """GPT-NeoX computes in the type of its weights throughout, as `deferred` needs for more than float32 digits."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "vocab_size": 64, "max_position_embeddings": 64}
    model: Any = GPTNeoXForCausalLM(GPTNeoXConfig(initializer_range=0.2, use_cache=False, **sizes))
    lora = LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=False)
    return get_peft_model(model.to(dtype), lora, autocast_adapter_dtype=False)


# What a rank keeps, all or some of it, besides the strategy of every other case here.
STRATEGIES: dict[str, dict[str, Any]] = {
    "recompute": {"strategy": "recompute"},
    "retain": {"strategy": "retain"},
    "retain some": {"strategy": "retain", "memory_budget": 60_000},
    "deferred": {"strategy": "deferred"},
    "deferred some": {"strategy": "deferred", "half": True},
}


def gradients(model):
    named = {
        name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    return {name: g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for name, g in named.items()}


def run_step(  # noqa: PLR0913 - of keywords
    model, build, paired, n_units, limit, *, tie=True, streamed=False, weighted=False, half=False, **options
):
    """This rank's share of one step; loss and metrics must be equal on all ranks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    width = 2 if paired else 1
    rows = make_rows(n_units, paired, tie)
    if weighted:
        rows = [dataclasses.replace(row, weight=(1 + k // width % 3) / 3) for k, row in enumerate(rows)]
    own = [row for unit in range(rank, n_units, world) for row in rows[unit * width :][:width]]
    kind = "paired" if paired else "unpaired"
    objective = build()
    laws = statistics(objective, rows, paired) if streamed else None
    if half:  # a budget for a graph and half of this rank's units
        sized = WholeBatchEngine(objective, kind, limit, world_size=world, memory_budget=2**40, **options)
        units, settled = sized.kept_bytes(model, own), sized.settled()
        assert settled is not None
        options["memory_budget"] = settled.kept - units // 2
    engine = WholeBatchEngine(objective, kind, limit, world_size=world, statistics=laws, **options)
    if streamed:
        engine.step(model, own)  # so that the laws hold something
    model.zero_grad()
    step = engine.step(model, own)
    everyone: list[Any] = [None] * world
    dist.all_gather_object(everyone, (step.loss.item(), sorted(step.metrics.items())))
    assert all(seen == everyone[0] for seen in everyone), everyone
    return step.loss, step.metrics, step.coefficients, gradients(model)


def full_fine_tuning(dtype, results):
    """Every objective under plain and sharded data parallelism."""
    alone = dist.get_world_size() == 1
    wrappers: list[tuple[str, GradientSync]] = [("ddp", "auto"), ("fsdp2", "last"), ("fsdp2", "each")]
    wrappers = [("plain", "auto")] if alone else wrappers
    for how, sync in wrappers:
        model = wrapped(make_model(dtype), how)
        for name, (build, paired) in OBJECTIVES.items():
            for case, (n_units, limit) in CASES.items():
                options: dict[str, Any] = {
                    "sharded": how == "fsdp2",
                    "no_sync": partial(without_sync, sync=sync),
                }
                for streamed in (False, True) if name in STREAMED else (False,):
                    shown = f"{name}, streamed" if streamed else name
                    results[str(dtype), f"{how} {sync}", shown, case] = run_step(
                        model, build, paired, n_units, limit, streamed=streamed, **options
                    )
                if name in WEIGHTED:
                    results[str(dtype), f"{how} {sync}", f"{name}, weighted", case] = run_step(
                        model, build, paired, n_units, limit, weighted=True, **options
                    )


def adapters(dtype, results):
    """Every strategy with a LoRA adapter under plain data parallelism.

    Without ties: GPT-NeoX scores a row to other last bits in a forward pass of another shape.
    """
    alone = dist.get_world_size() == 1
    model = with_lora(dtype)
    model = model if alone else DistributedDataParallel(model)
    for name in ("aot", "aot_unpaired"):
        build, paired = OBJECTIVES[name]
        for case, (n_units, limit) in CASES.items():
            for strategy, options in list(STRATEGIES.items())[: 1 if alone else None]:
                results[str(dtype), f"ddp {strategy}", f"{name}, LoRA", case] = run_step(
                    model, build, paired, n_units, limit, tie=False, **options
                )


def main(output):
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    results = {}
    for dtype in (torch.float64, torch.float32):
        full_fine_tuning(dtype, results)
        adapters(dtype, results)
    if dist.get_rank() == 0:
        torch.save(results, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
