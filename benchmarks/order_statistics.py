"""`order_statistics: stream` beside `batch`: agreement of gradients, and dominance on held-out pairs, by batch size.

The policy is a log-bilinear bigram model: a causal language model with a head, small enough for thousands of optimizer
steps, and scored and trained by the product's engine. Completions are drawn from the reference; a hidden taste for
tokens and chance decide which one of a pair is chosen, and the taste turns round for a part of the prompts that the
model cannot tell from the others. All runs take equally many steps of equal step size, so that a larger batch means
better order statistics (and less noise), not fewer updates.

1. *Gradients.* At a few steps of each run, the gradient of its next step by either way, from the same weights and the
   same batch, and the gradient of the exact objective on 4,096 fresh pairs (the population). Cosines of
   batch - population, stream - population, stream - batch. DPO: batch - population.
2. *Outcome.* First-order violation ratio on 4,096 held-out pairs after the last step: rewards of chosen against rejected
   responses, and margins of the policy against those of the reference.
3. *Half-life and place.* Along the runs with exact order statistics: the stream's gradient for several half-lives, and with
   a step-wise or an interpolated place of each sample in its running law.

    python benchmarks/order_statistics.py          # tables, results/order_statistics.json and .png; about 15 minutes
    python benchmarks/order_statistics.py --toy    # seconds, writes nothing
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn

mpl.use("Agg")
from matplotlib.figure import Figure

from distal.objectives import get_objective
from distal.scoring import score_rows
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.batch import local_batch
from distal.training.stream import OrderStatistics, initial_statistics
from distal.transport import violation_ratio
from distal.types import DataKind, TokenRow

RESULTS = Path(__file__).parent / "results"
SIZES = (4, 16, 64, 256)
STEPS = 160
LOOKS = (10, 20, 40, 80, 120, 160)
"""Steps at which gradients are compared."""
HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
DEFAULT_HALF_LIFE = 4.0
POPULATION = 4096
VOCABULARY, HIDDEN = 48, 16
BETA = 1.0
LEARNING_RATE = 0.01
LONGER = 0.3
"""Taste for each token of length: chosen responses are longer, so their rewards spread wider."""
CONTRARY = 0.25
"""Share of the prompts whose taste is the opposite."""


class Bigram(nn.Module):
    """logits(next | token) = W e(token): a causal language model of one layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        with torch.no_grad():
            self.embedding.weight.normal_(0, 1, generator=generator)
            self.head.weight.normal_(0, 0.3, generator=generator)

    def get_output_embeddings(self) -> nn.Module:
        """Where logits come from."""
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Any = None, use_cache: bool = False) -> Any:
        """Logits by position; a bigram needs no mask."""
        return SimpleNamespace(logits=self.head(self.embedding(input_ids)))


class Pairs(list[list[TokenRow]]):
    """Pairs with reference scores."""

    kind: DataKind = "paired"
    reference_scores: Any = None
    labels: Any = None

    def rows(self, which: Sequence[int] | None = None) -> list[TokenRow]:
        """Rows of some units, or of all."""
        return [row for unit in (range(len(self)) if which is None else which) for row in self[unit]]


@torch.no_grad()
def draw_pairs(n: int, model: nn.Module, seed: int) -> Pairs:
    """Prompts of one token, completions of 3 to 14 from the model, the choice by taste and chance."""
    generator = torch.Generator().manual_seed(seed)
    taste = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1))
    longest = 14
    tokens = torch.randint(VOCABULARY, (2 * n, 1), generator=generator)
    tokens[1::2] = tokens[0::2]
    for _ in range(longest):
        logits = model(tokens[:, -1:]).logits[:, -1]
        tokens = torch.cat([tokens, torch.multinomial(logits.softmax(-1), 1, generator=generator)], dim=1)
    lengths = torch.randint(3, longest + 1, (2 * n,), generator=generator)
    inside = torch.arange(longest)[None] < lengths[:, None]
    utility = (taste[tokens[:, 1:]] * inside).sum(1) + LONGER * lengths
    contrary = torch.rand(n, generator=generator) < CONTRARY
    gap = (utility[0::2] - utility[1::2]) * torch.where(contrary, -1.0, 1.0)
    first = torch.rand(n, generator=generator) < torch.sigmoid(gap)
    pairs = Pairs()
    for unit in range(n):
        sides = (2 * unit, 2 * unit + 1) if bool(first[unit]) else (2 * unit + 1, 2 * unit)
        pairs.append(
            [
                TokenRow(tokens[i, : 1 + int(lengths[i])].tolist(), 1, k == 0, unit, unit)
                for k, i in enumerate(sides)
            ]
        )
    scores = score_rows(model, pairs.rows()).double()
    pairs.reference_scores = scores.numpy()
    scored = Pairs(
        [
            TokenRow(
                r.input_ids, r.prompt_length, r.desirable, r.unit, r.source_row, float(scores[2 * u + k])
            )
            for k, r in enumerate(pair)
        ]
        for u, pair in enumerate(pairs)
    )
    scored.reference_scores = pairs.reference_scores
    return scored


def flat_gradient(model: nn.Module) -> Tensor:
    """All gradients in one vector; leaves none behind."""
    vector = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return vector


def cosine(one: Tensor, other: Tensor) -> float:
    """Between two gradients."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def exact_engine(name: str) -> WholeBatchEngine:
    """The objective of the sorted batch, in one pass."""
    objective = get_objective(name, beta=BETA)
    return WholeBatchEngine(objective, "paired", MicroBatchLimit(units=POPULATION), strategy="single")


def running_laws(name: str, pool: Pairs, batch: int, half_life: float, interpolate: bool) -> OrderStatistics:
    """The stream's state before the first step."""
    found = initial_statistics(
        get_objective(name, beta=BETA),
        pool,
        global_batch_size=batch,
        half_life=half_life,
        capacity=65_536,
    )
    found.interpolate = interpolate
    return found


def cut_gradient(model: nn.Module, rows: list[TokenRow], name: str, size: int) -> Tensor:
    """Mean gradient of the batch objective over all batches of a size that rows are cut into."""
    objective = get_objective(name, beta=BETA)
    live = score_rows(model, rows)
    parts: list[Tensor] = []
    for start in range(0, len(rows), 2 * size):
        part = slice(start, start + 2 * size)
        batch = local_batch("paired", rows[part], live[part].detach())
        policy = batch.policy.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(batch.sequence_scores(policy)).loss, policy)
        parts.append(gradient * (2 * size / len(rows)))
    (live * torch.cat(parts)).sum().backward()
    return flat_gradient(model)


def stream_gradient(model: nn.Module, rows: list[TokenRow], laws: OrderStatistics) -> Tensor:
    """Gradient of one batch under given laws, which stay as they are."""
    live = score_rows(model, rows)
    batch = local_batch("paired", rows, live.detach())
    _, coefficients = laws.evaluate(batch, laws.counts([row.desirable for row in rows]))
    (live * coefficients).sum().backward()
    return flat_gradient(model)


class World:
    """Model, data and held-out pairs of one seed."""

    def __init__(self, seed: int, *, pool: int, fresh: int) -> None:
        reference = Bigram(seed)
        self.seed = seed
        self.pool = draw_pairs(pool, reference, 10 * seed + 1)
        self.population = draw_pairs(fresh, reference, 10 * seed + 2).rows()
        self.held_out = draw_pairs(fresh, reference, 10 * seed + 3)

    def batches(self, size: int, steps: int) -> list[list[TokenRow]]:
        """The same for every objective and way."""
        generator = torch.Generator().manual_seed(1000 * self.seed + size)
        return [
            self.pool.rows(torch.randint(len(self.pool), (size,), generator=generator).tolist())
            for _ in range(steps)
        ]

    @torch.no_grad()
    def outcome(self, model: nn.Module) -> dict[str, float]:
        """First-order violation ratios and accuracy on the held-out pairs."""
        scores = score_rows(model, self.held_out.rows()).double()
        reference = torch.from_numpy(self.held_out.reference_scores)
        reward = scores - reference
        margins, before = scores[0::2] - scores[1::2], reference[0::2] - reference[1::2]
        return {
            "violation of rewards": violation_ratio(reward[0::2], reward[1::2], order=1),
            "violation of margins": violation_ratio(margins, before, order=1),
            "accuracy": float((reward[0::2] > reward[1::2]).double().mean()),
            "spread of rewards": float(reward.std()),
        }


def train(world: World, name: str, way: str, size: int, looks: Sequence[int]) -> dict[str, Any]:
    """One run; `way` is batch or stream."""
    torch.manual_seed(0)
    model = Bigram(world.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    exact = exact_engine(name)
    laws = running_laws(name, world.pool, size, DEFAULT_HALF_LIFE, True) if way == "stream" else None
    engine = exact
    if laws is not None:
        engine = WholeBatchEngine(
            exact.setting.objective, "paired", MicroBatchLimit(units=32), statistics=laws
        )
    variants: dict[str, OrderStatistics] = {}
    if way == "batch" and name != "dpo":
        variants = {
            f"{half_life:g} {'interpolated' if place else 'step-wise'}": running_laws(
                name, world.pool, size, half_life, place
            )
            for half_life in HALF_LIVES
            for place in (False, True)
        }
    cosines: dict[str, list[float]] = defaultdict(list)
    for step, rows in enumerate(world.batches(size, max(looks)), start=1):
        if step in looks:
            exact.step(model, world.population)
            population = flat_gradient(model)
            exact.step(model, rows)
            batch = flat_gradient(model)
            compared = dict(variants) if laws is None else {"stream": laws}
            cosines["batch, population"].append(cosine(batch, population))
            cosines["batch, mean"].append(
                cosine(cut_gradient(model, world.population, name, size), population)
            )
            for label, other in compared.items():
                stream = stream_gradient(model, rows, other)
                cosines[f"{label}, population"].append(cosine(stream, population))
                cosines[f"{label}, batch"].append(cosine(stream, batch))
                cosines[f"{label}, mean"].append(
                    cosine(stream_gradient(model, world.population, other), population)
                )
        output = engine.step(model, rows)
        for other in variants.values():
            other.update(output.batch)
        optimizer.step()
        optimizer.zero_grad()
    means = {key: statistics.fmean(values) for key, values in cosines.items()}
    return {
        "objective": name,
        "way": way,
        "batch": size,
        "seed": world.seed,
        "cosines": means,
    } | world.outcome(model)
