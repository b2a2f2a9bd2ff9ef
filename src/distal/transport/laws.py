"""Laws kept as tables, and the partners that a single sample has in another law: transport without a batch.

The monotone coupling of two laws joins the samples of one level. So a sample x of the first law, whose levels are
`(F(x-), F(x)]`, is joined with the quantiles of the second law at those levels and with nothing else: given both
laws, each sample finds its partners by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distal.transport._checks import check_number, check_sample, check_weights
from distal.transport.levels import Distortion

__all__ = ["Partners", "WeightedLaw", "partners", "weighted_law"]


class WeightedLaw(NamedTuple):
    """A law with finitely many atoms.

    Attributes:
        values: the atoms, ascending and distinct, float64, shape (k,).
        upto: weight of all atoms up to and including each, float64, shape (k,); the last one is the total.
    """

    values: Tensor
    upto: Tensor

    @property
    def total(self) -> Tensor:
        """Weight of all atoms, 0-d."""
        return self.upto[-1]


class Partners(NamedTuple):
    """What each sample is joined with, as a list of k cells.

    Attributes:
        sample: position of the cell's sample, shape (k,), non-decreasing.
        value: the partner, a quantile of the other law, float64, shape (k,).
        share: share of the sample's mass that goes there, float64, shape (k,); sums to 1 over a sample's cells
            unless levels are reweighted.
    """

    sample: Tensor
    value: Tensor
    share: Tensor


def weighted_law(values: Tensor, weights: Tensor | None = None) -> WeightedLaw:
    """Sort atoms and merge equal ones.

    Args:
        values: atoms in any order, shape (n,).
        weights: their non-negative weights, shape (n,); not normalised here. Each 1 if None.

    Raises:
        ValueError: an empty, non-finite or non-1-D sample, or bad weights.
        TypeError: not a floating tensor.

    Examples:
        >>> law = weighted_law(torch.tensor([2.0, 1.0, 2.0]))
        >>> law.values.tolist(), law.upto.tolist()
        ([1.0, 2.0], [1.0, 3.0])
    """
    values = check_sample(values, "values").detach().double()
    if weights is None:
        weights = torch.ones_like(values)
    else:
        check_weights(weights, values, "weights")
        weights = weights.double()
    kept = weights > 0
    ordered, order = torch.sort(values[kept], stable=True)
    upto = weights[kept][order].cumsum(0)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return WeightedLaw(ordered[last], upto[last])


def partners(
    x: Tensor,
    own: WeightedLaw,
    other: WeightedLaw,
    *,
    own_weight: float = 1.0,
    distortion: Distortion | None = None,
) -> Partners:
    """The partners of each sample under the monotone coupling of its own law with another.

    The sample counts in its own law with `own_weight`, added to what the law already holds at that value, and
    its mass is spread evenly over the levels `(a, b]` of that atom. The answer for one sample does not depend
    on the other samples asked about.

    Args:
        x: samples, shape (n,).
        own: the law that they come from.
        other: the law that they are joined with.
        own_weight: weight of the sample in its own law, in the unit of the law's weights; 0 if the law holds
            every sample already.
        distortion: cumulative weight W of the levels; a cell from level c to d then has the share
            `(W(d) - W(c)) / (b - a)`.

    Raises:
        ValueError: `own_weight` is negative or not finite, or, for a sample that its own law does not hold, 0 or so
            small that it is lost beside the weight of the law.
        TypeError: `own_weight` is not a number.

    Examples:
        >>> one, two = weighted_law(torch.tensor([0.0, 4.0])), weighted_law(torch.tensor([1.0, 2.0]))
        >>> found = partners(torch.tensor([3.0]), one, two)  # levels (1/3, 2/3]
        >>> found.value.tolist(), [round(share, 6) for share in found.share.tolist()]
        ([1.0, 2.0], [0.5, 0.5])
    """
    check_number(own_weight, "own_weight", meaning="the weight of a sample in its own law")
    if own_weight < 0:
        raise ValueError(f"own_weight must not be negative, got {own_weight}")
    x = check_sample(x, "x").detach().double()
    below, upto = _weight_below(own, x, right=False), _weight_below(own, x, right=True)
    total = own.total + own_weight
    low, high = below / total, (upto + own_weight) / total
    if bool((low >= high).any()):
        lost = x[low >= high]
        mend = (
            "give them a positive own_weight"
            if own_weight == 0
            else f"own_weight={own_weight} is lost beside the law's {own.total.item():g}, give them more"
        )
        raise ValueError(
            f"{lost.numel()} samples are not in their own law (the first is {lost[0].item()}), so they have no "
            f"levels; {mend}"
        )
    return _cells(low, high, other, distortion)


def _weight_below(law: WeightedLaw, x: Tensor, *, right: bool) -> Tensor:
    """Weight of the atoms below x, or up to x with `right`."""
    return torch.nn.functional.pad(law.upto, (1, 0))[torch.searchsorted(law.values, x, right=right)]


def _cells(low: Tensor, high: Tensor, other: WeightedLaw, distortion: Distortion | None) -> Partners:
    """Cut the levels (low, high] of each sample at the breaks of the other law."""
    breaks = other.upto / other.total  # ends in exactly 1
    first = torch.searchsorted(breaks, low, right=True)
    last = torch.searchsorted(breaks, high).clamp(max=breaks.numel() - 1)
    counts = last - first + 1
    sample = torch.repeat_interleave(torch.arange(low.numel(), device=low.device), counts)
    start = counts.cumsum(0) - counts
    atom = torch.arange(sample.numel(), device=low.device) - start[sample] + first[sample]
    bottom = torch.maximum(low[sample], torch.nn.functional.pad(breaks, (1, 0))[atom])
    top = torch.minimum(high[sample], breaks[atom])
    mass = top - bottom if distortion is None else distortion(top) - distortion(bottom)
    return Partners(sample, other.values[atom], mass / (high - low)[sample])
