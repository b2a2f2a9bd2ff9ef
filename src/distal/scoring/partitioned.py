"""Weights that DeepSpeed has partitioned (ZeRO stage 3): each rank holds a part, and the tensor itself seems empty."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["whole", "whole_shape"]


def whole_shape(weight: Tensor) -> torch.Size:
    """The shape of a weight, whether or not it is partitioned.

    Examples:
        >>> whole_shape(torch.zeros(3, 2))
        torch.Size([3, 2])
    """
    return getattr(weight, "ds_shape", weight.shape)


@contextmanager
def whole(weight: Tensor) -> Generator[Tensor]:
    """A weight as it is, or gathered from the ranks while open; then every rank must open it.

    Partitioned weights hold no numbers, so that any two models of one shape would seem to be the same, and sound.
    """
    if not hasattr(weight, "ds_id"):
        yield weight
        return
    import deepspeed  # pyright: ignore[reportMissingImports] - its weights are here, so it is installed

    with deepspeed.zero.GatheredParameters([weight]):
        yield weight
