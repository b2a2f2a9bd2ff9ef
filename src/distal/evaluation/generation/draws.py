"""Draws from next-token distributions that do not depend on what else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distal.errors import NonFiniteError
from distal.evaluation.generation.options import SamplingOptions

__all__ = ["RowDraws"]


class RowDraws:
    """A logits processor that picks each row's token by that row's own random numbers.

    `transformers` draws the tokens of a batch from one generator, so that a row's numbers depend on its place. Here
    row i has a generator of its own, on the CPU, and takes one uniform number u from it per token: the token is the
    first whose cumulative probability exceeds u (inversion of the distribution function, in float64). All other
    logits become minus infinity, so that greedy decoding takes the one that was drawn.

    Args:
        seeds: one for each row.
        options: temperature above 0, top_p, top_k.

    Example:
        >>> draws = RowDraws([1, 2], SamplingOptions(temperature=1.0))
        >>> scores = draws(
        ...     torch.zeros(2, 1, dtype=torch.long), torch.tensor([[0.0, -torch.inf], [-torch.inf, 3.0]])
        ... )
        >>> scores.argmax(1).tolist()
        [0, 1]
    """

    def __init__(self, seeds: Sequence[int], options: SamplingOptions) -> None:
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._warpers: list[Any] = [TemperatureLogitsWarper(float(options.temperature))]
        if options.top_k > 0:
            self._warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            self._warpers.append(TopPLogitsWarper(options.top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The drawn token of each row at 0, everything else at minus infinity; shapes (rows, vocabulary)."""
        if torch.isnan(scores).any():
            raise NonFiniteError(
                "the model's logits are NaN; it may overflow in half precision: load it with --dtype float32"
            )
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        # Apple's GPUs know no float64.
        exact = scores.cpu() if scores.device.type == "mps" else scores
        cumulative = exact.double().softmax(-1).cumsum(-1)
        uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self._generators])
        wanted = uniform.to(cumulative.device)[:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, wanted, right=True).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
