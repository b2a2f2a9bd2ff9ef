"""From the options of a transport objective to costs, sorts and weights, refusing what is not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from distal.transport._checks import check_positive
from distal.transport._names import check_choice
from distal.transport.costs import Cost, HingeCost, LeastSquaresCost, LogisticCost, SquaredHingeCost
from distal.transport.levels import Distortion, QuantileBand
from distal.transport.soft_sorting import Regularization, check_regularization

__all__ = ["COST_NAMES", "DEFAULT_BETA", "DEFAULT_MARGIN", "SortOptions", "build_cost", "build_distortion"]

DEFAULT_BETA = 0.01
"""1/nats; arXiv 2406.05882, Fig. 2."""
DEFAULT_MARGIN = 0.01
"""Nats; the same figure uses one number for both. In effect zero beside log-ratios of many nats."""

DEFAULT_STRENGTH = 0.1
"""1/nats; arXiv 2406.05882, appendix B (printed code). Gaps above 10 nats are pooled."""

_BY_MARGIN: dict[str, Callable[[float], Cost]] = {
    "squared_hinge": SquaredHingeCost,
    "hinge": HingeCost,
    "least_squares": LeastSquaresCost,
}
COST_NAMES = ("logistic", *_BY_MARGIN)


def build_cost(cost: str | Cost, *, beta: float | None, margin: float | None) -> Cost:
    """Build a cost from its name and its one parameter, or pass a callable through.

    Args:
        cost: a name among `COST_NAMES`, or a convex callable on tensors.
        beta: slope, 1/nats; for the logistic cost only. `DEFAULT_BETA` if None.
        margin: margin, nats; for the other named costs only. `DEFAULT_MARGIN` if None.

    Raises:
        ValueError: an unknown name, a parameter that the cost does not use, or one out of range.
        TypeError: neither a name nor a callable.
    """
    if not isinstance(cost, str):
        if not callable(cost):
            raise TypeError(f"cost must be a name or a callable on tensors, got {type(cost).__name__}")
        _refuse("a callable cost", beta=beta, margin=margin)
        return cost
    if cost == "logistic":
        _refuse("cost='logistic'", margin=margin)
        return LogisticCost(DEFAULT_BETA if beta is None else beta)
    check_choice(cost, "cost", COST_NAMES)
    _refuse(f"cost={cost!r}", beta=beta)
    return _BY_MARGIN[cost](DEFAULT_MARGIN if margin is None else margin)


def _refuse(user: str, **given: float | None) -> None:
    for name, value in given.items():
        if value is not None:
            remedy = (
                "set 'margin' (nats) instead" if name == "beta" else "set 'beta' (a slope, 1/nats) instead"
            )
            if user == "a callable cost":
                remedy = "put it into the callable"
            raise ValueError(f"option {name!r} is not used by {user}, got {value}; {remedy}")


@dataclass(frozen=True)
class SortOptions:
    """How to sort: `strength` is None for the hard sort."""

    strength: float | None
    regularization: Regularization

    @classmethod
    def build(cls, sort: str, strength: float | None, regularization: str | None) -> SortOptions:
        """Check the options of the sort against each other.

        Raises:
            ValueError: an unknown sort or regularisation, a strength that is not positive, or an option of
                the soft sort beside `sort='hard'`.
            TypeError: a strength that is not a number.
        """
        check_choice(sort, "sort", ("hard", "soft"))
        given = {"soft_sort_strength": strength, "soft_sort_regularization": regularization}
        for name, value in given.items():
            if sort == "hard" and value is not None:
                raise ValueError(
                    f"option {name!r} is not used by sort='hard', got {value!r}; set sort='soft'"
                )
        kind = "l2" if regularization is None else regularization
        check_regularization(kind, "soft_sort_regularization")
        if sort == "hard":
            return cls(None, "l2")
        strength = DEFAULT_STRENGTH if strength is None else strength
        check_positive(
            strength, "soft_sort_strength", meaning="values farther apart than its inverse are pooled"
        )
        return cls(strength, cast(Regularization, kind))


def build_distortion(weighting: Distortion | Sequence[float] | None) -> Distortion | None:
    """Build the weight of levels from a band `(low, high)`, or pass a callable or None through.

    Raises:
        ValueError: a sequence that is not a band of levels.
        TypeError: neither a callable nor a sequence of two numbers.
    """
    if weighting is None or callable(weighting):
        return weighting
    if isinstance(weighting, str) or not isinstance(cast(object, weighting), Sequence) or len(weighting) != 2:
        raise TypeError(
            f"quantile_weighting must be a band [low, high] of levels or a callable, got {weighting!r}"
        )
    return QuantileBand(weighting[0], weighting[1])
