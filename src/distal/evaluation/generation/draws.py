"""Draws that do not depend on what else is in the batch, and strings that end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distal.errors import NonFiniteError
from distal.evaluation.generation.options import SamplingOptions

__all__ = ["RowDraws", "StopStrings"]


class RowDraws:
    """A logits processor that picks each row's token by that row's own random numbers.

    `transformers` draws the tokens of a batch from one generator, so that a row's numbers depend on its place. Here
    row i has a generator of its own, on the CPU, and takes one uniform number u from it per token: the token is the
    first whose cumulative probability exceeds u (inversion of the distribution function, in float64). All other
    logits become minus infinity, so that greedy decoding takes the one that was drawn.

    Args:
        seeds: one for each row.
        options: temperature above 0, top_p, top_k.

    Examples:
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


class StopStrings:
    """A stopping criterion: a row is done when its answer holds one of the strings.

    `transformers` has one too, which takes the vocabulary apart beforehand and fails where the tokenizer cannot spell
    a string of its own; this one reads the end of each answer.

    Args:
        tokenizer: the model's.
        stop: the strings.
        width: tokens of the padded prompts, which are not looked at.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], width: int) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._width = width
        # A token adds at least one byte of text, but for a few special ones.
        self._tail = max(len(word.encode("utf-8", "surrogatepass")) for word in stop) + 16

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows are done, shape (rows,)."""
        start = max(self._width, input_ids.shape[1] - self._tail)
        texts = self._tokenizer.batch_decode(input_ids[:, start:], skip_special_tokens=True)
        done = [any(word in text for word in self._stop) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
