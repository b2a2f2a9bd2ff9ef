"""The small world of `order_statistics.py`: a policy, pairs with a hidden taste, and gradients to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from distal.objectives import get_objective
from distal.scoring import score_rows
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.batch import local_batch
from distal.training.stream import OrderStatistics, initial_statistics
from distal.transport import violation_ratio
from distal.transport.laws import WeightedLaw
from distal.types import DataKind, TokenRow

POPULATION = 4096
GRID = 32
VOCABULARY, HIDDEN = 48, 16
BETA = 1.0
CONTRARY = 0.2
"""Share of the pairs that are chosen by the opposite taste."""


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
    utility = (taste[tokens[:, 1:]] * inside).sum(1)
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


def running_laws(name: str, pool: Pairs, batch: int, half_life: float) -> OrderStatistics:
    """The stream's state before the first step."""
    objective = get_objective(name, beta=BETA)
    return initial_statistics(objective, pool, global_batch_size=batch, half_life=half_life, capacity=65_536)


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


@dataclass(frozen=True)
class Place:
    """Another rule for the levels that a sample has in its own law, computed beside the product's.

    Attributes:
        own_weight: of the sample in its law; the product has 1. Next to 0 it is a look-up of its rank.
        interpolate: move the levels by up to half of the own weight, by where the sample lies between its neighbours.
    """

    own_weight: float = 1.0
    interpolate: bool = False

    def coefficients(self, x: Tensor, own: WeightedLaw, other: WeightedLaw, sign: float) -> Tensor:
        """Derivative of each sample's logistic cost, on a grid of its levels."""
        upto = torch.nn.functional.pad(own.upto, (1, 0))
        first = torch.searchsorted(own.values, x)
        low, high = upto[first], upto[torch.searchsorted(own.values, x, right=True)]
        if self.interpolate:
            last = own.values.numel() - 1
            left, right = own.values[(first - 1).clamp(min=0)], own.values[first.clamp(max=last)]
            between = (first > 0) & (first <= last) & (left < x) & (x < right)
            shift = torch.where(between, (x - left) / (right - left) - 0.5, 0.0) * self.own_weight
            low, high = (low + shift).clamp(min=0), (high + shift).clamp(max=float(own.total))
        grid = (torch.arange(GRID, dtype=x.dtype) + 0.5) / GRID
        levels = (low[:, None] + (high + self.own_weight - low)[:, None] * grid) / (
            own.total + self.own_weight
        )
        at = torch.searchsorted(other.upto / other.total, levels).clamp(max=other.values.numel() - 1)
        gap = sign * (x[:, None] - other.values[at])
        return (-sign * BETA * torch.sigmoid(-BETA * gap)).mean(1) / x.numel()

    def gradient(self, model: nn.Module, rows: list[TokenRow], laws: OrderStatistics) -> Tensor:
        """As `stream_gradient`, by this rule."""
        live = score_rows(model, rows)
        u, v = laws.samples(local_batch("paired", rows, live.detach()), live.detach())
        of_u = self.coefficients(u.double(), laws.laws.u, laws.laws.v, 1.0)
        of_v = self.coefficients(v.double(), laws.laws.v, laws.laws.u, -1.0) if v.numel() else -of_u
        (live * torch.stack([of_u, of_v], dim=1).flatten()).sum().backward()
        return flat_gradient(model)


PLACES = {"rank alone": Place(1e-6), "own mass": Place(), "own mass, interpolated": Place(interpolate=True)}
"""The second is the product's own rule once more, as a check of this computation."""


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
