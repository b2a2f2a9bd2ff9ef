"""Sort groups: a seeded partition of the optimizer batch into parts that are sorted on their own.

The mean of the groups' laws, each by its mass, is the law of the batch, on both sides. That makes the cost of groups at
least the cost of the whole, because a transport cost is jointly convex in both laws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SortGroup", "sort_groups"]


class SortGroup(NamedTuple):
    """One sort group.

    Attributes:
        mass: share of the batch, 0-d, float64; 1 over all groups.
        u_index: its samples of the preferred side, shape (k,).
        v_index: its samples of the other side, shape (l,).
        u_weights: their weights in the group, shape (k,); None for equal ones on both sides.
        v_weights: the same of the other side, shape (l,).
    """

    mass: Tensor
    u_index: Tensor
    v_index: Tensor
    u_weights: Tensor | None
    v_weights: Tensor | None


def sort_groups(a: Tensor, b: Tensor, size: int, *, seed: int, paired: bool) -> list[SortGroup]:
    """Split two samples at random into the same number of groups.

    There are `ceil(min(n, m) / size)` groups of n and m samples, those without weight not counted, for they take no
    place in a group. Pairs, and equal weights in counts that are equal or that the number of groups divides, stay
    whole: groups of as equal counts as possible. Otherwise both sides are cut into stretches of equal weight, and a
    sample that is cut belongs to each of its groups with the weight that lies there. The permutation is a function of
    the seed and the counts: an optimizer batch is a random draw already, and every rank must cut it alike.

    Args:
        a: weights of the preferred side, float64, not all 0, in any unit.
        b: weights of the other side.
        size: samples of the smaller side in a group, at most, where the weights are equal.
        seed: of the permutation.
        paired: keep entry i of both sides together; then a and b are equal.

    Examples:
        >>> groups = sort_groups(torch.ones(2), torch.ones(3), 1, seed=0, paired=False)
        >>> [(group.mass.item(), group.v_weights.tolist()) for group in groups]
        [(0.5, [2.0, 1.0]), (0.5, [1.0, 2.0])]
    """
    # A group of samples without weight alone would have no law.
    u_kept, v_kept = a.nonzero()[:, 0], b.nonzero()[:, 0]
    a, b = a[u_kept], b[v_kept]
    n, m = a.numel(), b.numel()
    generator = torch.Generator().manual_seed(seed)
    u_order = torch.randperm(n, generator=generator)
    v_order = u_order if paired else torch.randperm(m, generator=generator)
    u_order, v_order = u_order.to(a.device), v_order.to(b.device)
    count = -(-min(n, m) // size)
    equal = bool((a == a[0]).all() & (b == b[0]).all())
    if paired or (equal and (n == m or n % count == m % count == 0)):
        u_share, v_share = a / a.sum(), b / b.sum()
        return [
            SortGroup(
                (u_share[i].sum() + v_share[j].sum()) / 2,
                u_kept[i],
                v_kept[j],
                None if equal else a[i],
                None if equal else b[j],
            )
            for i, j in zip(u_order.tensor_split(count), v_order.tensor_split(count), strict=True)
        ]
    u_parts, v_parts = _stretches(a[u_order], count), _stretches(b[v_order], count)
    mass = torch.tensor(1 / count, dtype=torch.float64, device=a.device)
    return [
        SortGroup(mass, u_kept[u_order[i]], v_kept[v_order[j]], on_u, on_v)
        for (i, on_u), (j, on_v) in zip(u_parts, v_parts, strict=True)
    ]


def _stretches(weights: Tensor, count: int) -> list[tuple[slice, Tensor]]:
    """Cut samples in a row into stretches of equal weight: the samples that each touches, with their weight there.

    In units of a `count`-th of a sample's weight, in which whole weights are cut without rounding.
    """
    reached = weights.cumsum(0)
    cuts = torch.arange(count + 1, dtype=torch.float64, device=weights.device) * reached[-1]
    reached = reached * count
    before = torch.nn.functional.pad(reached[:-1], (1, 0))
    first = torch.searchsorted(reached, cuts[:-1], right=True).tolist()
    last = torch.searchsorted(reached, cuts[1:]).tolist()
    parts: list[tuple[slice, Tensor]] = []
    for k, (start, end) in enumerate(zip(first, last, strict=True)):
        part = slice(start, end + 1)
        parts.append((part, reached[part].clamp(max=cuts[k + 1]) - before[part].clamp(min=cuts[k])))
    return parts
