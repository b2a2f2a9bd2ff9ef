"""Convex costs `h` of a quantile gap: large where dominance is violated (gap < 0), small where it holds.

Any convex callable on tensors may stand in for them. Convexity is what makes sorting optimal: for the 0/1
cost, which is not convex, the sorted pairing is not the cheapest one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from distal.transport._checks import check_number, check_positive

__all__ = [
    "Cost",
    "HingeCost",
    "LeastSquaresCost",
    "LogisticCost",
    "SmoothedCost",
    "SquaredHingeCost",
    "apply_cost",
]

Cost = Callable[[Tensor], Tensor]
"""A convex function of gaps, elementwise: tensor of any shape -> tensor of that shape."""


def _check_margin(margin: object) -> None:
    check_number(margin, "margin", meaning="nats")


@dataclass(frozen=True)
class LogisticCost:
    """Logistic cost `h(x) = log(1 + exp(-beta x))`, the paper's default.

    It keeps pushing after dominance is reached, with a slope that fades as `exp(-beta x)`.

    Args:
        beta: slope at large violations, 1/nats; positive.

    Raises:
        ValueError: `beta` is zero, negative or not finite.
        TypeError: `beta` is not a number.

    Source:
        arXiv 2406.05882, section 3 and Fig. 2 (beta = 0.01).

    Examples:
        >>> import torch
        >>> round(LogisticCost(beta=2.0)(torch.tensor([0.0])).item(), 6)
        0.693147
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self.beta, "beta", meaning="the slope of the logistic cost, 1/nats")

    def __call__(self, gap: Tensor) -> Tensor:
        """Cost of each gap; any shape, nats in, same shape out."""
        # logsigmoid, not softplus: the latter turns linear beyond 20 and loses the tail.
        return -F.logsigmoid(self.beta * gap)


@dataclass(frozen=True)
class HingeCost:
    """Hinge cost `h(x) = max(margin - x, 0)`: with margin 0 the W1 distance to the nearest dominating law.

    Its slope is the same for every violation, so violations that remain are few.

    Args:
        margin: gap at which the cost vanishes, nats.

    Raises:
        ValueError: `margin` is not finite.
        TypeError: `margin` is not a number.

    Source:
        arXiv 2406.05882, appendix F (margin 0).

    Examples:
        >>> import torch
        >>> HingeCost(margin=1.0)(torch.tensor([-1.0, 0.5, 3.0])).tolist()
        [2.0, 0.5, 0.0]
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_margin(self.margin)

    def __call__(self, gap: Tensor) -> Tensor:
        """Cost of each gap; any shape, nats in, same shape out."""
        return torch.relu(self.margin - gap)


@dataclass(frozen=True)
class SquaredHingeCost:
    """Squared hinge cost `h(x) = max(margin - x, 0)^2`: with margin 0 the squared W2 distance to dominance.

    Its slope fades with the violation, so many small ones remain unless a margin keeps pushing.

    Args:
        margin: gap at which the cost vanishes, nats (the paper calls it beta).

    Raises:
        ValueError: `margin` is not finite.
        TypeError: `margin` is not a number.

    Source:
        arXiv 2406.05882, section 3 and Fig. 2.

    Examples:
        >>> import torch
        >>> SquaredHingeCost(margin=1.0)(torch.tensor([-1.0, 0.5, 3.0])).tolist()
        [4.0, 0.25, 0.0]
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_margin(self.margin)

    def __call__(self, gap: Tensor) -> Tensor:
        """Cost of each gap; any shape, nats in, same shape out."""
        return torch.relu(self.margin - gap).square()


@dataclass(frozen=True)
class LeastSquaresCost:
    """Least-squares cost `h(x) = (margin - x)^2`, borrowed from IPO.

    It is no relaxation of the violation: it punishes a gap above the margin as much as one below.

    Args:
        margin: the gap aimed at, nats (the paper calls it beta).

    Raises:
        ValueError: `margin` is not finite.
        TypeError: `margin` is not a number.

    Source:
        arXiv 2406.05882, section 3 and Fig. 2.

    Examples:
        >>> import torch
        >>> LeastSquaresCost(margin=1.0)(torch.tensor([-1.0, 0.5, 3.0])).tolist()
        [4.0, 0.25, 4.0]
    """

    margin: float = 0.0

    def __post_init__(self) -> None:
        _check_margin(self.margin)

    def __call__(self, gap: Tensor) -> Tensor:
        """Cost of each gap; any shape, nats in, same shape out."""
        return (self.margin - gap).square()


@dataclass(frozen=True)
class SmoothedCost:
    """A cost under label smoothing: `(1 - s) h(x) + s h(-x)`, convex whenever `h` is.

    Args:
        cost: the convex cost `h`.
        smoothing: `s`, the assumed share of flipped labels, in [0, 0.5).

    Raises:
        ValueError: `smoothing` lies outside [0, 0.5).
        TypeError: `smoothing` is not a number, or `cost` not callable.

    Source:
        arXiv 2406.05882, appendix B (printed code), for the logistic cost.

    Examples:
        >>> import torch
        >>> SmoothedCost(HingeCost(), 0.25)(torch.tensor([-2.0, 2.0])).tolist()
        [1.5, 0.5]
    """

    cost: Cost
    smoothing: float

    def __post_init__(self) -> None:
        _check_callable(self.cost)
        check_number(self.smoothing, "smoothing", meaning="the assumed share of flipped labels")
        if not 0.0 <= self.smoothing < 0.5:
            raise ValueError(
                f"smoothing must lie in [0, 0.5), got {self.smoothing}; 0.5 says nothing about labels"
            )

    def __call__(self, gap: Tensor) -> Tensor:
        """Cost of each gap; any shape, nats in, same shape out."""
        return (1.0 - self.smoothing) * self.cost(gap) + self.smoothing * self.cost(-gap)


def _check_callable(cost: object) -> None:
    if not callable(cost):
        raise TypeError(f"cost must be a callable such as LogisticCost(), got {type(cost).__name__}")


def apply_cost(cost: Cost, gap: Tensor) -> Tensor:
    """Apply `cost` to gaps and check that it answered elementwise.

    Raises:
        TypeError: `cost` is not callable, or does not return a floating tensor.
        ValueError: it returns another shape.
    """
    _check_callable(cost)
    value = cast(object, cost(gap))
    if not isinstance(value, Tensor):
        raise TypeError(f"cost must return a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"cost must return a floating tensor, got {value.dtype}")
    if value.shape != gap.shape:
        raise ValueError(f"cost must work elementwise: {tuple(gap.shape)} in, {tuple(value.shape)} out")
    return value
