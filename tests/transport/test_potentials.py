"""Dual potentials: zero gap, feasibility, slackness, c-concavity, and the first variation of the cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distal.transport import Cost, dual_potentials, transport_cost, transport_plan
from tests.transport.oracles import COSTS, each_cost, normal, samples


def check_optimality(u: Tensor, v: Tensor, cost: Cost, a: Tensor | None, b: Tensor | None) -> None:
    phi, psi = dual_potentials(u, v, cost, u_weights=a, v_weights=b)
    table = cost(u[:, None] - v[None, :])
    slack = table - phi[:, None] - psi[None, :]
    tolerance = 1e-12 * (1 + table.abs().max().item())
    assert slack.min().item() >= -tolerance
    plan = transport_plan(u, v, u_weights=a, v_weights=b)
    assert slack[plan.u_index, plan.v_index].abs().max().item() <= tolerance
    mean_phi = phi.mean() if a is None else (a * phi).sum() / a.sum()
    mean_psi = psi.mean() if b is None else (b * psi).sum() / b.sum()
    value = transport_cost(u, v, cost, u_weights=a, v_weights=b)
    assert (mean_phi + mean_psi).item() == pytest.approx(value.item(), abs=tolerance)
    assert mean_phi.item() == pytest.approx(mean_psi.item(), abs=tolerance)
    torch.testing.assert_close(phi, (table - psi).min(1).values, atol=tolerance, rtol=0)
    torch.testing.assert_close(psi, (table - phi[:, None]).min(0).values, atol=tolerance, rtol=0)


@each_cost
@given(u=samples(), v=samples())
def test_potentials_are_optimal(cost: Cost, u: Tensor, v: Tensor):
    check_optimality(u, v, cost, None, None)


@each_cost
@given(u=samples(), v=samples(), data=st.data())
def test_potentials_are_optimal_under_weights(cost: Cost, u: Tensor, v: Tensor, data: st.DataObject):
    def weights(n: int) -> Tensor:
        return torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any)))

    check_optimality(u, v, cost, weights(u.numel()).double(), weights(v.numel()).double())


@each_cost
def test_many_samples(cost: Cost):
    check_optimality(normal(300, seed=1, scale=5), normal(170, seed=2, scale=5) + 1, cost, None, None)


@pytest.mark.parametrize(
    "cost", [COSTS["logistic"], COSTS["squared_hinge"]], ids=["logistic", "squared_hinge"]
)
def test_phi_is_the_first_variation_of_the_cost(cost: Cost):
    u, v = normal(5, seed=1), normal(8, seed=2)
    phi, _ = dual_potentials(u, v, cost)
    direction = normal(5, seed=3)
    direction -= direction.mean()
    weights = torch.full_like(u, 1 / 5)

    def value(step: float) -> float:
        return transport_cost(u, v, cost, u_weights=weights + step * direction).item()

    # 1/5 is no breakpoint of 1/8: the cost is smooth in the weights here, and phi is its derivative.
    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    assert slope == pytest.approx((direction * phi).sum().item(), abs=1e-8)


def test_no_gradient_is_recorded_and_type_is_kept():
    u = torch.tensor([1.0, 2.0], requires_grad=True)
    phi, psi = dual_potentials(u, torch.tensor([0.0]), torch.square)
    assert not phi.requires_grad
    assert phi.dtype == psi.dtype == torch.float32


def test_bad_cost():
    with pytest.raises(TypeError, match="cost must be a callable"):
        dual_potentials(torch.ones(1), torch.ones(1), "hinge")  # pyright: ignore[reportArgumentType]
