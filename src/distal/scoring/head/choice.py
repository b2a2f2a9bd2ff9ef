"""Which way to compute log-probabilities costs least, and fits.

| head | coefficients | logits fit | way | matrix products | kept until the backward pass |
|---|---|---|---|---:|---|
| any | no gradient wanted | - | values only, by tiles | 1 | nothing |
| frozen | - | - | gradient stored in the forward | 2 | (N, H) |
| trained | known | - | gradients formed in the forward | 3 | (N, H) and (V, H) |
| trained | unknown | yes | p - 1_y kept | 3 | (N, V) |
| trained | unknown | no | logits computed again, by tiles | 4 | (N, H) |

All give the same numbers to rounding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from distal.scoring.head.tiles import (
    KeptResidual,
    Recomputed,
    StoredGradient,
    WeightedSum,
    log_probs_only,
)
from distal.scoring.head.transform import IDENTITY, LogitTransform

__all__ = ["head_log_probs", "tile_rows", "weighted_sum"]

# Sizes by type of device, the host's otherwise. The host's are measured (benchmarks/head.py): with tiles of 256 to
# 1024 tokens and about 32 MiB the stored and weighted forms are never slower than whole logits. Those of CUDA follow
# from arithmetic: a matrix product is bound by its operands' traffic below some hundred tokens.
TILE_BYTES = {"cuda": 2**30}
"""Bytes of the logits of one tile."""
TILE_BYTES_OF_HOST = 2**25
FEWEST_ROWS = 256
"""A tile has at least these tokens, whatever it takes: smaller matrix products read the matrix too often."""
MOST_ROWS = {"cuda": 2**20}
MOST_ROWS_OF_HOST = 1024
"""A tile has at most these tokens."""
KEPT_BYTES = {"cuda": 2**31}
"""Logits of a trained head are kept for the backward pass up to this size."""
KEPT_BYTES_OF_HOST = 2**29


def head_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    transform: LogitTransform = IDENTITY,
    compute_dtype: torch.dtype | None = None,
    tile: int | None = None,
    keep_logits: bool | None = None,
) -> Tensor:
    """Log-probability of each target token, `log softmax(f(h W^T + b))_y`, differentiable in h, W and b.

    Args:
        hidden: (N, H) states from which the tokens are predicted, N >= 1.
        weight: (V, H) output matrix.
        bias: (V,) or None.
        targets: (N,) the tokens that follow, on the same device.
        transform: what the model does to its logits.
        compute_dtype: type of the matrix products (mixed precision), None for that of `hidden`.
        tile: tokens per tile, None for what `TILE_BYTES` allows. Memory and speed only.
        keep_logits: whether a trained head keeps (N, V) numbers for the backward pass; None to decide by their size.

    Returns:
        (N,) nats, float32 (float64 for float64 states).

    Examples:
        >>> h, w = torch.zeros(1, 3), torch.ones(4, 3)
        >>> head_log_probs(h, w, None, torch.tensor([2])).exp().item()
        0.25
    """
    operands = _cast(hidden, weight, bias, compute_dtype)
    tile = tile or tile_rows(targets.shape[0], weight)
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    with torch.autocast(hidden.device.type, enabled=False):
        if not torch.is_grad_enabled() or not (hidden.requires_grad or trained):
            return log_probs_only(*operands, targets, transform, tile)
        if not trained:
            return cast(Tensor, StoredGradient.apply(*operands, targets, transform, tile))
        if keep_logits is None:
            keep_logits = targets.shape[0] * _row_bytes(weight) <= KEPT_BYTES.get(
                hidden.device.type, KEPT_BYTES_OF_HOST
            )
        if keep_logits:
            return cast(Tensor, KeptResidual.apply(*operands, targets, transform, tile))
        return cast(Tensor, Recomputed.apply(*operands, targets, transform, tile))


def weighted_sum(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    *,
    transform: LogitTransform = IDENTITY,
    compute_dtype: torch.dtype | None = None,
    tile: int | None = None,
) -> Tensor:
    """`sum_t w_t log p_t` for (N,) weights that carry no gradient: a 0-d tensor, differentiable in h, W and b.

    Its gradients are formed in the forward pass, so call it only where a backward pass follows. The other
    arguments are those of `head_log_probs`.

    Examples:
        >>> h, w = torch.zeros(2, 3), torch.ones(4, 3, requires_grad=True)
        >>> weighted_sum(h, w, None, torch.tensor([2, 0]), torch.tensor([1.0, -1.0])).item()
        0.0
    """
    operands = _cast(hidden, weight, bias, compute_dtype)
    tile = tile or tile_rows(targets.shape[0], weight)
    with torch.autocast(hidden.device.type, enabled=False):
        return cast(Tensor, WeightedSum.apply(*operands, targets, weights.detach(), transform, tile))


def tile_rows(n: int, weight: Tensor) -> int:
    """Tokens per tile for n tokens: as many as fit into `TILE_BYTES`, evenly shared among the tiles.

    Examples:
        >>> tile_rows(1000, torch.empty(2**14, 1, device="meta"))
        500
    """
    kind = weight.device.type
    fitting = TILE_BYTES.get(kind, TILE_BYTES_OF_HOST) // _row_bytes(weight)
    most = max(FEWEST_ROWS, min(fitting, MOST_ROWS.get(kind, MOST_ROWS_OF_HOST)))
    return -(-n // -(-n // most))


def _row_bytes(weight: Tensor) -> int:
    return weight.shape[0] * (8 if weight.dtype == torch.float64 else 4)


def _cast(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, compute_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    dtype = compute_dtype or hidden.dtype
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
