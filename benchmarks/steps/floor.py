"""The least time a step could take: its matrix products at the rate that the machine reaches in them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from steps.workload import DTYPES, SHAPES, Row


def gemm_rate(row: Row, seconds: float = 2.0) -> float:
    """FLOP/s of the best of a few matrix products in the shapes of the row, best of several repetitions."""
    config = SHAPES[row.shape][1]
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    best = 0.0
    for m, k, n in ((4096, hidden, inner), (4096, inner, hidden), (2048, hidden, min(row.vocabulary, 32768))):
        a = torch.randn(m, k, device=row.device, dtype=DTYPES[row.dtype])
        b = torch.randn(n, k, device=row.device, dtype=DTYPES[row.dtype])
        stop = time.perf_counter() + seconds / 3
        while time.perf_counter() < stop:
            start = time.perf_counter()
            torch.mm(a, b.t())
            if row.device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 2 * m * k * n / (time.perf_counter() - start))
    return best


def step_flop(row: Row, triples: Sequence[tuple[int, int, int]]) -> float:
    """FLOP of forward and backward pass of these pairs, every sequence on its own, without padding or recomputation.

    Matrix products with weights (2 per weight and token forwards, as many backwards to activations, and to weights
    where they are trained), the head on completion tokens only, and causal attention (half of the square).
    """
    config: dict[str, Any] = SHAPES[row.shape][1]
    h, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    width = h // config["num_attention_heads"] * config["num_key_value_heads"]
    in_layers = layers * (2 * h * h + 2 * h * width + 3 * h * inner)
    passes = 6 if row.tuning == "full" else 4
    total = 0.0
    for p, c, r in triples:
        for completion in (c, r):
            length = p + completion
            total += passes * (in_layers * length + row.vocabulary * h * completion)
            total += layers * 3 * 2 * h * length**2
    return total


def tokens_of(triples: Sequence[tuple[int, int, int]]) -> int:
    """Tokens of these pairs with the prompt counted on both sides, without padding."""
    return sum(2 * p + c + r for p, c, r in triples)
