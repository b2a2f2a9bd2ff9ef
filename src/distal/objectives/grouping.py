"""Sort groups: a seeded partition of the optimizer batch into parts that are sorted on their own."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sort_groups"]


def sort_groups(n: int, m: int, size: int, *, seed: int, paired: bool) -> list[tuple[Tensor, Tensor]]:
    """Split two samples at random into the same number of groups.

    There are `ceil(min(n, m) / size)` groups, as equal as possible. The permutation is a function of the seed
    and the counts: an optimizer batch is a random draw already, and every rank must cut it alike.

    Args:
        n: samples of the preferred side.
        m: samples of the other side.
        size: samples of the smaller side in a group, at most.
        seed: of the permutation.
        paired: keep entry i of both sides together (n = m).

    Returns:
        For each group, the indices into both sides.

    Example:
        >>> [(len(u), len(v)) for u, v in sort_groups(5, 10, 2, seed=0, paired=False)]
        [(2, 4), (2, 3), (1, 3)]
    """
    generator = torch.Generator().manual_seed(seed)
    u_order = torch.randperm(n, generator=generator)
    v_order = u_order if paired else torch.randperm(m, generator=generator)
    count = -(-min(n, m) // size)
    return list(zip(u_order.tensor_split(count), v_order.tensor_split(count), strict=True))
