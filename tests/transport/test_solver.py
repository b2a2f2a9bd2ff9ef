"""Transport cost and plan against brute force, linear programmes, SciPy, POT and closed forms; their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distal.transport import Cost, HingeCost, LogisticCost, SquaredHingeCost, transport_cost, transport_plan
from tests.transport.oracles import (
    COSTS,
    central_difference,
    cheapest_pairing,
    each_cost,
    linear_programme,
    normal,
    samples,
)


@each_cost
@given(u=samples(1, 5), data=st.data())
def test_equal_counts_equal_the_cheapest_of_all_pairings(cost: Cost, u: Tensor, data: st.DataObject):
    v = data.draw(samples(u.numel(), u.numel()))
    assert transport_cost(u, v, cost).item() == pytest.approx(
        cheapest_pairing(u, v, cost), rel=1e-12, abs=1e-12
    )


def test_zero_one_cost_is_the_control_that_sorting_does_not_solve():
    u, v = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 2.5, 3.5])
    zero_one: Cost = lambda gap: (gap < 0).to(gap.dtype)  # noqa: E731 - the type is the point
    assert transport_cost(u, v, zero_one).item() == 1.0
    assert cheapest_pairing(u, v, zero_one) == pytest.approx(1 / 3)


@each_cost
def test_equal_counts_equal_linear_sum_assignment(cost: Cost):
    optimize = pytest.importorskip("scipy.optimize")
    u, v = normal(64, seed=2), normal(64, seed=3) + 0.5
    table = cost(u[:, None] - v[None, :]).numpy()
    rows, columns = optimize.linear_sum_assignment(table)
    assert transport_cost(u, v, cost).item() == pytest.approx(table[rows, columns].mean(), rel=1e-13)


@each_cost
@pytest.mark.parametrize(("n", "m"), [(1, 5), (2, 3), (4, 6), (7, 5), (12, 8), (17, 1)])
def test_unequal_counts_equal_the_linear_programme(cost: Cost, n: int, m: int):
    u, v = normal(n, seed=n), normal(m, seed=100 + m)
    assert transport_cost(u, v, cost).item() == pytest.approx(
        linear_programme(u, v, cost), rel=1e-9, abs=1e-12
    )


@each_cost
@pytest.mark.parametrize(("n", "m"), [(1, 4), (5, 5), (6, 9)])
def test_weights_equal_the_linear_programme(cost: Cost, n: int, m: int):
    u, v = normal(n, seed=n), normal(m, seed=100 + m)
    a, b = normal(n, seed=7).square(), normal(m, seed=8).abs()
    a[0] = 0.0 if n > 1 else 1.0
    value = transport_cost(u, v, cost, u_weights=a, v_weights=b)
    assert value.item() == pytest.approx(linear_programme(u, v, cost, a, b), rel=1e-9, abs=1e-12)


@given(u=samples(), v=samples())
def test_wasserstein_distances_of_scipy_and_pot(u: Tensor, v: Tensor):
    stats, ot = pytest.importorskip("scipy.stats"), pytest.importorskip("ot")
    first = stats.wasserstein_distance(u.numpy(), v.numpy())
    assert transport_cost(u, v, torch.abs).item() == pytest.approx(first, abs=1e-12)
    second = float(ot.emd2_1d(u.numpy(), v.numpy(), metric="sqeuclidean"))
    assert transport_cost(u, v, torch.square).item() == pytest.approx(second, abs=1e-12)


def test_plan_moves_the_mass_that_pot_moves():
    ot = pytest.importorskip("ot")
    u, v = normal(9, seed=4), normal(6, seed=5)
    a, b = normal(9, seed=6).abs(), normal(6, seed=7).abs()
    plan = transport_plan(u, v, u_weights=a, v_weights=b)
    table = torch.zeros(9, 6, dtype=torch.float64).index_put_((plan.u_index, plan.v_index), plan.mass)
    expected = ot.emd_1d(u.numpy(), v.numpy(), (a / a.sum()).numpy(), (b / b.sum()).numpy())
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-14)


@pytest.mark.parametrize("weight", [1.0, 0.1, 3e-5, 1e300])
@pytest.mark.parametrize(("n", "m"), [(10, 10), (49, 7), (30, 45)])
def test_equal_weights_are_no_weights(weight: float, n: int, m: int):
    u, v = normal(n, seed=1), normal(m, seed=2)
    expected = transport_plan(u, v)
    weighted = transport_plan(u, v, u_weights=torch.full((n,), weight, dtype=torch.float64))
    # As many cells: a break that misses its equal by an ulp would add one of mass 1e-17.
    assert torch.equal(weighted.u_index, expected.u_index)
    assert torch.equal(weighted.v_index, expected.v_index)
    torch.testing.assert_close(weighted.mass, expected.mass, rtol=0, atol=1e-15)


@given(u=samples(), v=samples(), data=st.data())
def test_whole_weights_make_the_cells_of_their_copies(u: Tensor, v: Tensor, data: st.DataObject):
    counts = torch.tensor(data.draw(st.lists(st.integers(1, 3), min_size=u.numel(), max_size=u.numel())))
    origin = torch.arange(u.numel()).repeat_interleave(counts)
    copies = transport_plan(u[origin], v)
    weighted = transport_plan(u, v, u_weights=counts)
    cells = {(origin[i].item(), j.item()) for i, j in zip(copies.u_index, copies.v_index, strict=True)}
    assert set(zip(weighted.u_index.tolist(), weighted.v_index.tolist(), strict=True)) == cells
    assert weighted.mass.numel() == len(cells)


def test_gaussian_and_uniform_closed_forms():
    levels = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    gauss = torch.special.ndtri(levels)
    # W_2^2 between N(1, 1.5^2) and N(0, 1) is (difference of means)^2 + (difference of deviations)^2.
    assert transport_cost(1 + 1.5 * gauss, gauss, torch.square).item() == pytest.approx(1.25, rel=1e-4)
    # Uniform(0, 1) falls short of Uniform(0, 2) by t at level t.
    assert transport_cost(levels, 2 * levels, HingeCost()).item() == pytest.approx(1 / 2, rel=1e-9)
    assert transport_cost(levels, 2 * levels, SquaredHingeCost()).item() == pytest.approx(1 / 3, rel=1e-9)


@given(u=samples(), v=samples(), data=st.data())
def test_plan_has_the_marginals_and_the_cost(u: Tensor, v: Tensor, data: st.DataObject):
    counts = st.integers(0, 3)
    a = torch.tensor(data.draw(st.lists(counts, min_size=u.numel(), max_size=u.numel()).filter(any)))
    plan = transport_plan(u, v, u_weights=a)
    assert plan.mass.numel() <= u.numel() + v.numel() - 1
    assert bool((plan.mass > 0).all())
    u_mass = torch.zeros(u.numel(), dtype=torch.float64).index_add_(0, plan.u_index, plan.mass)
    v_mass = torch.zeros(v.numel(), dtype=torch.float64).index_add_(0, plan.v_index, plan.mass)
    torch.testing.assert_close(u_mass, a / a.sum(dtype=torch.float64))
    torch.testing.assert_close(v_mass, torch.full_like(v_mass, 1 / v.numel()))
    value = (plan.mass * COSTS["logistic"](u[plan.u_index] - v[plan.v_index])).sum()
    torch.testing.assert_close(transport_cost(u, v, COSTS["logistic"], u_weights=a), value)


@each_cost
@given(u=samples(), v=samples(), shift=st.integers(-8, 8), seed=st.integers(0, 99))
def test_order_of_samples_and_a_common_shift_change_nothing(
    cost: Cost, u: Tensor, v: Tensor, shift: int, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    shuffled = (
        u[torch.randperm(u.numel(), generator=generator)],
        v[torch.randperm(v.numel(), generator=generator)],
    )
    value = transport_cost(u, v, cost)
    torch.testing.assert_close(transport_cost(shuffled[0] + shift, shuffled[1] + shift, cost), value)


@given(u=samples(), v=samples(), factor=st.sampled_from([0.5, 2.0, 8.0]))
def test_scaling_the_samples_is_scaling_the_slope(u: Tensor, v: Tensor, factor: float):
    scaled = transport_cost(factor * u, factor * v, LogisticCost(0.3))
    torch.testing.assert_close(scaled, transport_cost(u, v, LogisticCost(0.3 * factor)))


@each_cost
@given(u=samples(), v=samples(), copies=st.integers(2, 4))
def test_repeating_one_side_changes_nothing(cost: Cost, u: Tensor, v: Tensor, copies: int):
    torch.testing.assert_close(transport_cost(u.repeat(copies), v, cost), transport_cost(u, v, cost))
    weights = torch.full_like(v, 0.37)
    torch.testing.assert_close(transport_cost(u, v, cost, v_weights=weights), transport_cost(u, v, cost))


@given(u=samples(2, 6), v=samples(), data=st.data())
def test_whole_weights_count_as_copies_and_zero_weights_vanish(u: Tensor, v: Tensor, data: st.DataObject):
    sizes = st.lists(st.integers(0, 3), min_size=u.numel(), max_size=u.numel())
    counts = torch.tensor(data.draw(sizes.filter(any)))
    expected = transport_cost(u.repeat_interleave(counts), v, COSTS["squared_hinge"])
    torch.testing.assert_close(transport_cost(u, v, COSTS["squared_hinge"], u_weights=counts), expected)


@each_cost
@pytest.mark.parametrize(("n", "m", "weighted"), [(6, 6, False), (5, 8, False), (6, 6, True), (4, 7, True)])
def test_gradient_equals_finite_differences(cost: Cost, n: int, m: int, weighted: bool):
    joined = normal(n + m, seed=n + m).requires_grad_()
    a, b = (normal(n, seed=1).abs(), normal(m, seed=2).abs()) if weighted else (None, None)

    def value(x: Tensor) -> Tensor:
        return transport_cost(x[:n], x[n:], cost, u_weights=a, v_weights=b)

    (gradient,) = torch.autograd.grad(value(joined), joined)
    torch.testing.assert_close(gradient, central_difference(value, joined.detach()), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (6, 9)])
def test_logistic_coefficients_lie_between_minus_beta_over_n_and_zero(n: int, m: int):
    u, v = normal(n, seed=1, scale=30).requires_grad_(), normal(m, seed=2, scale=30).requires_grad_()
    on_u, on_v = torch.autograd.grad(transport_cost(u, v, LogisticCost(0.5)), (u, v))
    assert bool(((on_u >= -0.5 / n) & (on_u <= 0)).all())
    assert bool(((on_v <= 0.5 / m) & (on_v >= 0)).all())
    torch.testing.assert_close(on_u.sum(), -on_v.sum())


def test_satisfied_hinge_has_no_gradient():
    u = torch.tensor([5.0, 6.0], requires_grad=True)
    transport_cost(u, torch.tensor([1.0, 2.0]), HingeCost(1.0)).backward()
    assert u.grad is not None
    assert u.grad.tolist() == [0.0, 0.0]


def test_identical_laws_cost_log_two_whatever_the_slope():
    u = normal(31, seed=5)
    for beta in (0.01, 1.0, 50.0):
        value = transport_cost(u, u.flip(0).repeat(2), LogisticCost(beta)).item()
        assert value == pytest.approx(math.log(2), rel=1e-12)


def test_large_coprime_counts_use_linear_memory():
    u, v = torch.linspace(0, 1, 99_991), torch.linspace(0, 1, 100_003)
    assert transport_cost(u, v, torch.abs).item() < 1e-4
    assert transport_plan(u, v).mass.numel() == 99_991 + 100_003 - 1
