"""Soft sorting: the projection of an evenly spaced ramp onto the permutahedron of a sample.

Both regularisations of Blondel et al. 2020 solve an isotonic regression, here in O(n log n) by `isotonic`.
The blocks that it pools are found without a gradient; the result is a smooth function of the sample given its
blocks. Both are computed in double precision: a block sums up to n values.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from distal.transport._checks import check_positive, check_sample
from distal.transport._names import check_choice
from distal.transport.isotonic import Pooling, l2_pooling, log_pooling, pooled_blocks

__all__ = ["Regularization", "check_regularization", "soft_sort"]

_LARGEST = sys.float_info.max / 4

Regularization = Literal["l2", "entropic"]


def check_regularization(value: object, name: str = "regularization") -> None:
    """Refuse anything but `l2` and `entropic`; `name` is what the message calls the argument.

    Raises:
        ValueError: another name.
        TypeError: not a string.
    """
    check_choice(value, name, _SMOOTHED)


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

    Examples:
        >>> import torch
        >>> soft_sort(torch.tensor([4.0, 0.0, 1.0]), strength=0.1).tolist()
        [0.0, 1.0, 4.0]
        >>> soft_sort(torch.tensor([20.0, 0.0, 9.0]), strength=0.1).tolist()
        [0.0, 9.5, 19.5]
    """
    check_regularization(regularization)
    check_positive(strength, "strength", meaning="1/nats: values farther apart than its inverse are pooled")
    ordered = torch.sort(check_sample(x, "x"), stable=True).values
    # Where the ramp would overflow no gap exceeds its spacing anyway.
    spacing = min(1.0 / float(strength), _LARGEST / ordered.numel())
    ramp = spacing * torch.arange(1, ordered.numel() + 1, dtype=torch.float64, device=ordered.device)
    found = pooled_blocks(_POOLED[regularization](ramp, ordered.detach().double()))
    if found is None:
        return ordered
    pooled = _SMOOTHED[regularization](ordered[found.entry].double(), spacing, _Blocks.of(found.block))
    return ordered.index_put((found.entry,), pooled.to(ordered.dtype))


_POOLED: dict[str, Callable[[Tensor, Tensor], Pooling]] = {
    "l2": lambda ramp, ordered: l2_pooling(ramp - ordered),
    "entropic": log_pooling,
}


class _Blocks(NamedTuple):
    """Block of each entry, shape (n,), and first entry and size of each block, shape (k,)."""

    block: Tensor
    first: Tensor
    size: Tensor

    @classmethod
    def of(cls, block: Tensor) -> _Blocks:
        size = torch.bincount(block)
        return cls(block, size.cumsum(0) - size, size)

    def total(self, values: Tensor) -> Tensor:
        """Sum of `values` over each block, shape (k,)."""
        return torch.zeros_like(self.size, dtype=values.dtype).index_add(0, self.block, values)

    def place(self) -> Tensor:
        """Place of each entry in its block, from 0, float64."""
        return (torch.arange(self.block.numel(), device=self.block.device) - self.first[self.block]).double()


def _soft_l2(ordered: Tensor, spacing: float, blocks: _Blocks) -> Tensor:
    """Values equally spaced about the mean of their block."""
    mean = blocks.total(ordered) / blocks.size
    # Counted from the middle of the block, so that a block of one adds exactly nothing.
    middle = (blocks.size.double() - 1) / 2
    return mean[blocks.block] + spacing * (blocks.place() - middle[blocks.block])


def _soft_entropic(ordered: Tensor, spacing: float, blocks: _Blocks) -> Tensor:
    """Values equally spaced such that the sum of exponentials of their block stays."""
    block, size = blocks.block, blocks.size
    top = ordered.detach()[blocks.first + size - 1]
    total = blocks.total((ordered - top[block]).exp()).log() + top
    # log sum of e^(-spacing d) over d = 0 .. size - 1, in closed form; exactly zero for a block of one.
    ramp_total = (torch.expm1(-spacing * size.double()) / math.expm1(-spacing)).log()
    ramp_total = torch.where(size == 1, 0.0, ramp_total)
    return total[block] - spacing * (size[block] - 1 - blocks.place()) - ramp_total[block]


_SMOOTHED: dict[str, Callable[[Tensor, float, _Blocks], Tensor]] = {
    "l2": _soft_l2,
    "entropic": _soft_entropic,
}
