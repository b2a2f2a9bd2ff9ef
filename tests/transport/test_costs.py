"""Costs: values by hand, slopes by finite differences, convexity, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distal.transport import (
    Cost,
    HingeCost,
    LeastSquaresCost,
    LogisticCost,
    SmoothedCost,
    SquaredHingeCost,
)
from tests.transport.oracles import central_difference, each_cost


@pytest.mark.parametrize(
    ("cost", "gap", "value"),
    [
        (LogisticCost(2.0), 1.5, math.log1p(math.exp(-3.0))),
        (LogisticCost(2.0), -1.5, math.log1p(math.exp(3.0))),
        (LogisticCost(0.01), 0.0, math.log(2.0)),
        (HingeCost(), -3.0, 3.0),
        (HingeCost(1.0), 0.25, 0.75),
        (HingeCost(1.0), 1.0, 0.0),
        (SquaredHingeCost(), -3.0, 9.0),
        (SquaredHingeCost(2.0), 0.5, 2.25),
        (SquaredHingeCost(-1.0), -0.5, 0.0),
        (LeastSquaresCost(2.0), 5.0, 9.0),
        (SmoothedCost(LogisticCost(2.0), 0.1), 1.5, math.log1p(math.exp(-3.0)) + 0.1 * 3.0),
    ],
)
def test_value_by_hand(cost: Cost, gap: float, value: float):
    assert cost(torch.tensor(gap, dtype=torch.float64)).item() == pytest.approx(value, abs=1e-14)


def test_logistic_cost_survives_extreme_gaps():
    gap = torch.tensor([-1e4, 1e4, 40.0], dtype=torch.float64, requires_grad=True)
    value = LogisticCost(1.0)(gap)
    value.sum().backward()
    assert value.tolist() == pytest.approx([1e4, 0.0, math.exp(-40.0)], rel=1e-12)
    assert gap.grad is not None
    assert gap.grad.tolist() == pytest.approx([-1.0, 0.0, -math.exp(-40.0)], rel=1e-12)


@each_cost
@given(
    x=st.floats(-30, 30),
    y=st.floats(-30, 30),
    share=st.floats(0, 1),
)
def test_cost_is_convex(cost: Cost, x: float, y: float, share: float):
    ends = torch.tensor([x, y], dtype=torch.float64)
    between = cost(share * ends[0] + (1 - share) * ends[1])
    chord = share * cost(ends)[0] + (1 - share) * cost(ends)[1]
    assert between <= chord + 1e-9 * (1 + chord.abs())


@each_cost
def test_slope_equals_finite_differences(cost: Cost):
    gap = torch.tensor([-7.1, -0.9, 0.11, 2.3, 11.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cost(gap).sum(), gap)
    torch.testing.assert_close(
        slope, central_difference(lambda x: cost(x).sum(), gap.detach()), rtol=1e-6, atol=1e-6
    )
