"""Sorting and quantile functions of one-dimensional samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distal.transport._checks import check_levels, check_pair, check_sample, scale_weights

__all__ = ["hard_sort", "quantile_function", "quantile_gap", "share_ties"]


def hard_sort(x: Tensor) -> Tensor:
    """Sort ascending: `x_(1) <= ... <= x_(n)`.

    The backward pass holds the permutation fixed and hands each upstream gradient to the sample that took the
    place; the sort is 1-Lipschitz and this is its Jacobian almost everywhere. Tied samples keep their order.

    Args:
        x: sample, shape (n,).

    Returns:
        The order statistics, shape (n,); float32 at least.

    Raises:
        ValueError: `x` is not 1-D, is empty, or holds NaN or infinity.
        TypeError: `x` is not a floating tensor.

    Examples:
        >>> import torch
        >>> hard_sort(torch.tensor([3.0, 1.0, 2.0])).tolist()
        [1.0, 2.0, 3.0]
    """
    return torch.sort(check_sample(x, "x"), stable=True).values


def share_ties(ordered: Tensor, weights: Tensor) -> Tensor:
    """A sorted sample with the same values, whose tied entries share their gradient in proportion to their weights.

    A sort hands the gradients of tied places to the samples in their order, which means nothing. Every order is as
    good as any other; this is the mean over all of them, a subgradient as well.

    Args:
        ordered: ascending sample, shape (n,).
        weights: their non-negative weights, float64, shape (n,).

    Returns:
        `ordered` itself where nothing is tied.

    Examples:
        >>> x = torch.tensor([1.0, 1.0, 2.0], requires_grad=True)
        >>> shared = share_ties(x, torch.ones(3, dtype=torch.float64))
        >>> (gradient,) = torch.autograd.grad(shared, x, torch.tensor([4.0, 2.0, 5.0]))
        >>> gradient.tolist()
        [3.0, 3.0, 5.0]
    """
    rises = ordered.detach().diff() > 0
    if bool(rises.all()):
        return ordered
    tie = torch.nn.functional.pad(rises.cumsum(0), (1, 0))
    total = torch.zeros_like(weights).index_add(0, tie, weights)[tie]
    share = torch.where(total > 0, weights / total, 0.0).to(ordered.dtype)
    mean = torch.zeros_like(ordered).index_add(0, tie, share * ordered)[tie]
    # The mean of equal values may differ from them in the last bit; its gradient alone is wanted.
    return ordered.detach() + (mean - mean.detach())


def quantile_function(
    x: Tensor, levels: Tensor | Sequence[float] | float, weights: Tensor | None = None
) -> Tensor:
    """Left-continuous quantile function `Q(t) = inf {q : F(q) >= t}` of the empirical law.

    Unweighted this is the order statistic of rank `ceil(n t)`; no interpolation. `Q(0)` is taken as the
    minimum. Whole weights count as copies, at every level; a sample of weight 0 is no sample.

    Args:
        x: sample, shape (n,).
        levels: levels `t` in [0, 1]; a number, a list, or a tensor of any shape. A level means the number as
            written: `torch.tensor(0.07)`, in float32, is the seventh of a hundred values, not the eighth.
        weights: non-negative weights of the samples, shape (n,); any positive sum. Equal weights if None.

    Returns:
        `Q` at the levels, in their shape; differentiable in `x`.

    Raises:
        ValueError: a level outside [0, 1], levels on another device or asking for a gradient, a bad sample, or
            bad weights.
        TypeError: `x` is not a floating tensor, or levels that are not real numbers.

    Source:
        arXiv 2406.05882, section 2 (definition of first-order dominance).

    Examples:
        >>> import torch
        >>> quantile_function(torch.tensor([30.0, 10.0, 20.0, 40.0]), [0.25, 0.26, 1.0]).tolist()
        [10.0, 20.0, 40.0]
    """
    x = check_sample(x, "x")
    at = check_levels(levels, x.device)
    if weights is not None:
        weights = scale_weights(weights, x, "weights")
        x, weights = x[weights > 0], weights[weights > 0]
    ordered, order = torch.sort(x, stable=True)
    n = x.numel()
    if weights is None:
        # i / n rounds as a written level such as 0.07 does; n * t would not, and ceil() would miss by one.
        upper = torch.arange(1, n + 1, dtype=torch.float64, device=x.device) / n
    else:
        cumulative = weights[order].cumsum(0)
        upper = cumulative / cumulative[-1]
        if not _sums_are_exact(weights):
            # A sum such as 0.1 + 0.2 falls an ulp beside the level 0.3: a level that close belongs to the break.
            upper = upper * (1.0 + (n + 4) * torch.finfo(torch.float64).eps)
    # Breaks are rounded as the levels were: 0.07 in float32 lies above 7/100.
    upper = upper.to(at.dtype).double()
    index = torch.searchsorted(upper, at.double().contiguous()).clamp(max=n - 1)
    return ordered[index]


def _sums_are_exact(weights: Tensor) -> bool:
    """Whether scaled weights, below 2 each, are multiples of one power of two that leaves room for their sum."""
    units = weights * 2.0 ** (52 - (weights.numel() - 1).bit_length())
    return bool((units == units.round()).all())


def quantile_gap(u: Tensor, v: Tensor, levels: Tensor | Sequence[float] | float) -> Tensor:
    """Quantile gap `Q_u(t) - Q_v(t)`: non-negative at every level exactly if u dominates v at first order.

    Args:
        u: sample that should dominate, shape (n,), nats.
        v: sample to be dominated, shape (m,), nats; m may differ from n.
        levels: levels `t` in [0, 1].

    Returns:
        The gaps in the shape of `levels`, nats; differentiable in `u` and `v`.

    Raises:
        ValueError: a level outside [0, 1], a bad sample, or samples or levels on different devices.
        TypeError: a sample is not a floating tensor, or levels that are not real numbers.

    Examples:
        >>> import torch
        >>> quantile_gap(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0]), [0.5, 1.0]).tolist()
        [1.0, -1.0]
    """
    u, v = check_pair(u, v)
    return quantile_function(u, levels) - quantile_function(v, levels)
