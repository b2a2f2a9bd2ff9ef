"""How exactly a score can be known: rounding of log-probabilities by the type of the forward pass."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from distal.scoring.quantization import product_dtypes

__all__ = ["compute_dtype", "score_noise"]

# Typical difference, in nats, between two computations of one token's log-probability that differ only in how rows
# were batched. Below 32 bits it is rounding of the hidden states that decides; sums and log-sum-exp are in float32.
_TOKEN_NOISE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


def compute_dtype(model: nn.Module, autocast_dtype: torch.dtype | None) -> torch.dtype:
    """The coarsest type that a forward pass computes in: that of mixed precision, of the weights, or of products."""
    if autocast_dtype is not None:
        return autocast_dtype
    floating = {*(p.dtype for p in model.parameters()), *product_dtypes(model)} & _TOKEN_NOISE.keys()
    return max(floating, key=lambda dtype: _TOKEN_NOISE[dtype], default=torch.float32)


def score_noise(dtype: torch.dtype, completion_lengths: ArrayLike) -> NDArray[np.float64]:
    """Rounding of scores: differences up to this size say nothing about two models.

    Errors of tokens add up like a random walk, so the noise of a score grows with the root of its length.

    Args:
        dtype: what `compute_dtype` says.
        completion_lengths: tokens of each completion, (n,).

    Returns:
        (n,) nats.

    Examples:
        >>> score_noise(torch.bfloat16, [1, 100]).tolist()
        [0.01, 0.1]
    """
    return _TOKEN_NOISE[dtype] * np.sqrt(np.asarray(completion_lengths, dtype=np.float64))
