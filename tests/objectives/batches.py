"""Batches of scores for the objective tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from distal.objectives import SequenceScores
from tests.transport.oracles import normal


def random_pairs(n: int, seed: int = 0, scale: float = 3.0) -> SequenceScores:
    """Pairs with Gaussian scores in float64 whose policy scores carry a gradient."""
    scores = -40 + normal(4, n, seed=seed, scale=scale)
    return SequenceScores.from_pairs(
        scores[0].requires_grad_(), scores[1].requires_grad_(), scores[2], scores[3]
    )


def random_samples(n: int, m: int, seed: int = 0, scale: float = 3.0) -> SequenceScores:
    """Unpaired scores of n preferred and m other completions."""
    policy, reference = -40 + normal(2, n + m, seed=seed, scale=scale)
    return SequenceScores(
        policy[:n].clone().requires_grad_(), policy[n:].clone().requires_grad_(), reference[:n], reference[n:]
    )


def batches_of_pairs(largest: int = 6) -> st.SearchStrategy[SequenceScores]:
    """Pairs on a coarse grid, ties common."""

    def build(rows: list[tuple[int, int, int, int]]) -> SequenceScores:
        columns: list[Tensor] = list(torch.tensor(rows, dtype=torch.float64).T / 2)
        return SequenceScores.from_pairs(*columns)

    score = st.integers(-40, 0)
    return st.lists(st.tuples(score, score, score, score), min_size=1, max_size=largest).map(build)
