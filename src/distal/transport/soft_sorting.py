"""Soft sorting: the projection of an evenly spaced ramp onto the permutahedron of a sample.

Both regularisations of Blondel et al. 2020 solve an isotonic regression, here in O(n log n) by `isotonic`.
The blocks that it pools are found without a gradient; the result is a smooth function of the sample given its
blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from distal.transport._checks import check_positive, check_sample
from distal.transport.isotonic import l2_pooling, log_pooling, pooled_blocks

__all__ = ["Regularization", "check_regularization", "soft_sort"]

Regularization = Literal["l2", "entropic"]


def check_regularization(name: object) -> None:
    """Refuse anything but `l2` and `entropic`.

    Raises:
        ValueError: another name.
    """
    if name not in _SMOOTHED:
        raise ValueError(f"regularization must be 'l2' or 'entropic', got {name!r}")


def soft_sort(x: Tensor, strength: float, regularization: Regularization = "l2") -> Tensor:
    """Soft sort of Blondel et al.: the ramp `rho / strength` projected onto the permutahedron of x, ascending.

    With `rho = (1, ..., n)` and P(x) the convex hull of all orderings of x, `l2` returns the point of P(x)
    nearest to `rho / strength`, and `entropic` the logarithm of the point of P(e^x) nearest to `e^(rho /
    strength)` in Kullback-Leibler divergence. What this does:

    - **While every gap between neighbours is at most 1/strength both equal the hard sort**, and so do their
      gradients. Near-ties swap as they do in a hard sort.
    - Values with a larger gap between them are pooled into a block, equally spaced by 1/strength: about their
      mean for `l2`, such that the sum of exponentials stays for `entropic`. A pooled block spreads its
      gradient over all its samples: equally for `l2`, in proportion to `e^x` for `entropic`.
    - The sum of x is kept by `l2`, the sum of `e^x` by `entropic`.

    Args:
        x: sample, shape (n,), nats.
        strength: regularisation strength, 1/nats; positive. The limit 0 is the hard sort.
        regularization: `l2` or `entropic`.

    Returns:
        Softly sorted values, ascending up to rounding, shape (n,); float32 at least, differentiable in `x`.

    Raises:
        ValueError: strength not positive, another regularisation, or a bad sample.
        TypeError: `x` is not a floating tensor, or strength not a number.

    Source:
        Blondel, Teboul, Berthet, Djolonga 2020, "Fast Differentiable Sorting and Ranking", arXiv 2002.08871,
        eqs (4)-(7) and Proposition 3; arXiv 2406.05882, Algorithms 1-2 (soft sort with parameter eps).

    Example:
        >>> import torch
        >>> soft_sort(torch.tensor([4.0, 0.0, 1.0]), strength=0.1).tolist()
        [0.0, 1.0, 4.0]
        >>> soft_sort(torch.tensor([20.0, 0.0, 9.0]), strength=0.1).tolist()
        [0.0, 9.5, 19.5]
    """
    check_regularization(regularization)
    spacing = 1.0 / check_positive(
        strength, "strength", meaning="values farther apart than 1/strength are pooled"
    )
    ordered = torch.sort(check_sample(x, "x"), stable=True).values
    return _SMOOTHED[regularization](ordered, spacing)


def _soft_l2(ordered: Tensor, spacing: float) -> Tensor:
    ramp = _ramp(ordered, spacing)
    block, first, size = _blocks(pooled_blocks(l2_pooling(ramp - ordered.detach().double())))
    mean = torch.zeros_like(first, dtype=ordered.dtype).index_add(0, block, ordered) / size
    # Counted from the middle of the block, so that a block of one adds exactly nothing.
    steps = torch.arange(block.numel(), device=block.device) - first[block] - (size[block] - 1) / 2
    return mean[block] + spacing * steps.to(ordered.dtype)


def _soft_entropic(ordered: Tensor, spacing: float) -> Tensor:
    ramp = _ramp(ordered, spacing)
    block, first, size = _blocks(pooled_blocks(log_pooling(ramp, ordered.detach().double())))
    last = first + size - 1
    top = ordered.detach()[last]
    total = torch.zeros_like(top).index_add(0, block, (ordered - top[block]).exp()).log() + top
    # log sum of e^(-spacing d) over d = 0 .. size - 1, in closed form; exactly zero for a block of one.
    ramp_total = (torch.expm1(-spacing * size.double()) / math.expm1(-spacing)).log()
    ramp_total = torch.where(size == 1, 0.0, ramp_total)
    steps = (last[block] - torch.arange(block.numel(), device=block.device)).double()
    return total[block] - (spacing * steps + ramp_total[block]).to(ordered.dtype)


_SMOOTHED: dict[str, Callable[[Tensor, float], Tensor]] = {"l2": _soft_l2, "entropic": _soft_entropic}


def _ramp(ordered: Tensor, spacing: float) -> Tensor:
    return spacing * torch.arange(1, ordered.numel() + 1, dtype=torch.float64, device=ordered.device)


def _blocks(block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Block of each entry, and first entry and size of each block."""
    _, size = torch.unique_consecutive(block, return_counts=True)
    return block, size.cumsum(0) - size, size
