"""One rank of the world-size tests: runs every case in one process group and writes rank 0's gradients.

Usage: python -m torch.distributed.run --nproc-per-node=W world_size_job.py OUTPUT
"""

from __future__ import annotations

import random
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from distal.objectives import get_objective
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.ranks import GradientSync, without_sync
from distal.types import TokenRow

OBJECTIVES = {
    "aot": (partial(get_objective, "aot", beta=0.1), True),
    "aot soft": (partial(get_objective, "aot", beta=0.1, sort="soft", soft_sort_strength=0.5), True),
    "aot_unpaired": (partial(get_objective, "aot_unpaired", beta=0.1), False),
    "dpo": (partial(get_objective, "dpo", beta=0.1), True),
    "ipo": (partial(get_objective, "ipo"), True),
    "kto": (partial(get_objective, "kto"), False),
}
# 9 units make uneven shares, 3 leave a rank of 4 without any; a limit in tokens cuts every rank differently.
CASES = {
    "9 units by 2": (9, MicroBatchLimit(units=2)),
    "9 units by tokens": (9, MicroBatchLimit(tokens=50)),
    "3 units by 1": (3, MicroBatchLimit(units=1)),
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


def make_rows(n_units, paired):
    """Rows of very different lengths; in the unpaired ones every rank of 2 holds one label only, and two tie."""
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
    rows[2 * width : 3 * width] = rows[
        :width
    ]  # the same rows again: equal scores, which sorting must break alike
    return rows


def wrapped(model, how):
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp2":
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model)
    return model


def gradients(model):
    named = {
        name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None
    }
    return {name: g.full_tensor() if hasattr(g, "full_tensor") else g.clone() for name, g in named.items()}


def main(output):
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, world = dist.get_rank(), dist.get_world_size()
    wrappers: list[tuple[str, GradientSync]] = (
        [("plain", "auto")] if world == 1 else [("ddp", "auto"), ("fsdp2", "last"), ("fsdp2", "each")]
    )
    results = {}
    for dtype in (torch.float64, torch.float32):
        for how, sync in wrappers:
            model = wrapped(make_model(dtype), how)
            for name, (build, paired) in OBJECTIVES.items():
                width = 2 if paired else 1
                for case, (n_units, limit) in CASES.items():
                    rows = make_rows(n_units, paired)
                    own = [
                        row for unit in range(rank, n_units, world) for row in rows[unit * width :][:width]
                    ]
                    engine = WholeBatchEngine(
                        build(),
                        "paired" if paired else "unpaired",
                        limit,
                        world_size=world,
                        sharded=how == "fsdp2",
                        no_sync=partial(without_sync, sync=sync),
                    )
                    model.zero_grad()
                    step = engine.step(model, own)
                    everyone = [None] * world
                    dist.all_gather_object(everyone, (step.loss.item(), sorted(step.metrics.items())))
                    assert all(seen == everyone[0] for seen in everyone), (name, case, everyone)
                    results[str(dtype), how, sync, name, case] = (
                        step.loss,
                        step.metrics,
                        step.coefficients,
                        gradients(model),
                    )
    if rank == 0:
        torch.save(results, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
