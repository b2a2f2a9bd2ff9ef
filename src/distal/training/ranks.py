"""Several processes at one optimizer batch: what they agree on before a step, and when they exchange gradients.

Ranks hold different rows, so left alone they would cut different numbers of micro-batches. Where weights are sharded
(FSDP2) every forward and backward pass is a collective operation, and in plain data parallelism it decides which
collective comes next: ranks that disagree wait for each other for ever. So all ranks run as many passes as the one
that has most; the others run `FILLER`, whose coefficient is nothing, in the passes that they lack.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from distal.scoring import collective_device, in_parallel
from distal.types import TokenRow

__all__ = ["FILLER", "GradientSync", "most_over_ranks", "padded_to_all_ranks", "without_sync"]

GradientSync = Literal["auto", "last", "each"]

FILLER = TokenRow([0, 0], prompt_length=1, desirable=True, unit=-1, source_row=-1, reference_score=0.0)
"""What a rank passes through the model where it has no rows of its own; token 0 exists in every vocabulary."""


def padded_to_all_ranks(groups: list[list[int]]) -> list[list[int]]:
    """This rank's micro-batches, with empty ones after them until every rank has the same number, at least one.

    Micro-batches come longest first and the empty ones last, so that what the ranks do at the same time is of
    similar length.

    Examples:
        >>> padded_to_all_ranks([[0, 1], [2, 3]])
        [[0, 1], [2, 3]]
    """
    return groups + [[]] * (most_over_ranks(len(groups)) - len(groups))


def most_over_ranks(own: int) -> int:
    """The largest of the ranks' numbers."""
    if not in_parallel():
        return own
    most = torch.tensor(own, device=collective_device())
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most.item())


@contextmanager
def without_sync(model: nn.Module, sync: GradientSync = "auto") -> Generator[None]:
    """While open, backward passes through `model` leave the exchange of gradients to a later one.

    Plain data parallelism adds up each rank's own gradients in the meantime, in the memory that they have anyway.
    Sharded weights (FSDP2) would have to keep gradients of the whole model on every rank, which is what sharding
    is there to avoid; so there `auto` exchanges them in every pass, at half as much traffic again.

    Args:
        model: wrapped for data parallelism (DDP, FSDP2), or not at all.
        sync: `last` exchanges gradients in the last pass alone, `each` in every pass; the sum is the same.
    """
    sharded: Any = model if hasattr(model, "set_requires_gradient_sync") else None
    if sync == "each" or (sync == "auto" and sharded is not None):
        yield
    elif sharded is not None:
        sharded.set_requires_gradient_sync(False)
        sharded.set_is_last_backward(False)
        try:
            yield
        finally:
            sharded.set_requires_gradient_sync(True)
            sharded.set_is_last_backward(True)
    elif hasattr(model, "no_sync"):
        wrapped: Any = model
        with wrapped.no_sync():
            yield
    else:
        yield
