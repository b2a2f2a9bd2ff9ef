"""Costs against known laws: where the laws are the batch's own, they are the batch objective, exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distal.objectives import SequenceScores, get_objective
from distal.objectives.streaming import RunningLaws, check_streamable, costs_of_other, costs_of_preferred
from distal.transport import transport_cost
from distal.transport.laws import weighted_law

OPTIONS = {
    "logistic": {"beta": 0.5},
    "smoothed": {"beta": 0.5, "label_smoothing": 0.1},
    "squared hinge": {"cost": "squared_hinge", "margin": 0.5},
    "hinge": {"cost": "hinge", "margin": 0.3},
    "least squares": {"cost": "least_squares", "margin": 1.0},
    "lower tail": {"beta": 0.5, "quantile_weighting": [0.0, 0.3]},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def normal(n, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, dtype=torch.float64, generator=generator)


def grid(smallest=1, largest=8):
    values = st.lists(st.integers(-8, 8).map(lambda k: k / 4), min_size=smallest, max_size=largest)
    return values.map(lambda xs: torch.tensor(xs, dtype=torch.float64))


def batch_objective(name, options, u, v):
    """Loss and coefficients of the batch objective; paired: v are the reference's margins."""
    u, v = u.clone().requires_grad_(), v.clone().requires_grad_()
    zero = torch.zeros_like
    if name == "aot":
        scores = SequenceScores.from_pairs(u, zero(u), v.detach(), zero(v))
    else:
        scores = SequenceScores(u, v, zero(u), zero(v))
    loss = get_objective(name, **options)(scores).loss
    (du, dv) = torch.autograd.grad(loss, (u, v), allow_unused=True)
    return loss.detach(), du, dv


def running(name, options, u, v, laws, own_weight):
    """Both estimates of the loss, and the coefficients."""
    objective = check_streamable(get_objective(name, **options))
    u, v = u.clone().requires_grad_(), v.clone().requires_grad_()
    of_u = costs_of_preferred(objective, u, laws, own_weight=own_weight).mean()
    of_v = costs_of_other(objective, v, laws, own_weight=own_weight).mean()
    return of_u.detach(), of_v.detach(), *torch.autograd.grad(of_u + of_v, (u, v))


def mean_over_ties(values: Tensor, coefficients: Tensor) -> Tensor:
    """Each coefficient replaced by the mean over the samples of equal value: the mean over ways to break ties."""
    same = (values[:, None] == values[None, :]).double()
    return same @ coefficients / same.sum(1)


@each_option
@given(data=st.data())
def test_with_the_batch_as_its_law_it_is_the_batch_objective(options, data):
    """Unpaired, any counts, ties included; the batch objective breaks ties by position, the law has no positions."""
    u, v = data.draw(grid()), data.draw(grid())
    loss, du, dv = batch_objective("aot_unpaired", options, u, v)
    laws = RunningLaws(weighted_law(u), weighted_law(v))
    of_u, of_v, cu, cv = running("aot_unpaired", options, u, v, laws, 0.0)
    torch.testing.assert_close(torch.stack([of_u, of_v]), loss.expand(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(cu, mean_over_ties(u, du), rtol=0, atol=1e-12)
    torch.testing.assert_close(cv, mean_over_ties(v, dv), rtol=0, atol=1e-12)


@each_option
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (5, 8), (12, 3), (64, 64)])
def test_without_ties_every_coefficient_is_that_of_the_batch(options, n, m):
    u, v = normal(n, 1, 1.5, 0.3), normal(m, 2)
    loss, du, dv = batch_objective("aot_unpaired", options, u, v)
    laws = RunningLaws(weighted_law(u), weighted_law(v))
    of_u, of_v, cu, cv = running("aot_unpaired", options, u, v, laws, 0.0)
    torch.testing.assert_close((of_u, of_v, cu, cv), (loss, loss, du, dv), rtol=0, atol=1e-12)


@each_option
@pytest.mark.parametrize("n", [1, 7, 64])
def test_paired_margins_against_those_of_the_reference(options, n):
    u, v = normal(n, 3, 1.5, 0.3), normal(n, 4)
    loss, du, _ = batch_objective("aot", options, u, v)
    laws = RunningLaws(weighted_law(u), weighted_law(v))
    of_u, _, cu, _ = running("aot", options, u, v, laws, 0.0)
    torch.testing.assert_close((of_u, cu), (loss, du), rtol=0, atol=1e-12)


@each_option
@pytest.mark.parametrize(("n", "m"), [(2, 5), (6, 6), (9, 4)])
def test_the_law_of_the_others_and_oneself_is_the_batch(options, n, m):
    """What training does: a sample that the law does not hold yet counts in it once."""
    u, v = normal(n, 5, 1.5, 0.3), normal(m, 6)
    _, du, dv = batch_objective("aot_unpaired", options, u, v)
    for i in range(n):
        laws = RunningLaws(weighted_law(torch.cat([u[:i], u[i + 1 :]])), weighted_law(v))
        _, _, cu, _ = running("aot_unpaired", options, u[i : i + 1], v, laws, 1.0)
        assert cu.item() / n == pytest.approx(du[i].item(), abs=1e-12)
    for j in range(m):
        laws = RunningLaws(weighted_law(u), weighted_law(torch.cat([v[:j], v[j + 1 :]])))
        _, _, _, cv = running("aot_unpaired", options, u, v[j : j + 1], laws, 1.0)
        assert cv.item() / m == pytest.approx(dv[j].item(), abs=1e-12)


def test_coefficients_are_finite_differences_of_the_transport_cost():
    """The envelope theorem itself: moving a sample moves the optimal cost as if the coupling stayed."""
    u, v, step = normal(6, 7, 1.5), normal(9, 8), 1e-6
    objective = check_streamable(get_objective("aot_unpaired", beta=0.5))
    _, _, cu, cv = running(
        "aot_unpaired", {"beta": 0.5}, u, v, RunningLaws(weighted_law(u), weighted_law(v)), 0.0
    )

    def slope(i, of_u):
        e = torch.zeros_like(u if of_u else v)
        e[i] = step
        up = (
            transport_cost(u + e, v, objective.gap_cost())
            if of_u
            else transport_cost(u, v + e, objective.gap_cost())
        )
        down = (
            transport_cost(u - e, v, objective.gap_cost())
            if of_u
            else transport_cost(u, v - e, objective.gap_cost())
        )
        return ((up - down) / (2 * step)).item()

    assert cu.tolist() == pytest.approx([slope(i, True) for i in range(6)], abs=1e-9)
    assert cv.tolist() == pytest.approx([slope(j, False) for j in range(9)], abs=1e-9)


def test_coefficients_converge_to_those_of_the_whole_data():
    """Fixed policy, ever more history: the error of the gradient falls as the root of its length."""
    n = 20_000
    u, v = normal(n, 9, 1.5, 0.3), normal(n, 10)
    features = torch.randn(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(11))
    features = features + u[:, None] * torch.linspace(-1, 1, 8, dtype=torch.float64)
    _, du, _ = batch_objective("aot_unpaired", {"beta": 2.0}, u, v)
    whole = du @ features
    errors, cosines = [], []
    for length in (30, 300, 3000):
        found = []
        for seed in range(10):
            at = torch.randint(n, (2, length), generator=torch.Generator().manual_seed(seed))
            laws = RunningLaws(weighted_law(u[at[0]]), weighted_law(v[at[1]]))
            _, _, cu, _ = running("aot_unpaired", {"beta": 2.0}, u, v, laws, 1.0)
            found.append(cu @ features)
        errors.append(torch.stack([(g - whole).norm() for g in found]).mean().item())
        cosines.append(torch.stack([torch.cosine_similarity(g, whole, dim=0) for g in found]).mean().item())
    slopes = [torch.tensor(b / a).log10().item() for a, b in zip(errors, errors[1:], strict=False)]
    assert all(-0.75 < slope < -0.25 for slope in slopes), errors
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[2] > 0.9995


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_at_the_start_all_rewards_tie_and_all_coefficients_are_equal(name):
    u, zero = torch.zeros(5, dtype=torch.float64), weighted_law(torch.zeros(1))
    of_u, of_v, cu, cv = running(name, {"beta": 0.4}, u, u[:3], RunningLaws(zero, zero), 1.0)
    assert [of_u.item(), of_v.item()] == pytest.approx([0.6931471805599453] * 2, abs=1e-15)
    assert cu.tolist() == pytest.approx([-0.2 / 5] * 5, abs=1e-15)
    assert cv.tolist() == pytest.approx([0.2 / 3] * 3, abs=1e-15)


def test_float32_scores_get_float32_gradients():
    laws = RunningLaws(weighted_law(normal(9, 1)), weighted_law(normal(9, 2)))
    u = normal(4, 3).float().requires_grad_()
    objective = check_streamable(get_objective("aot_unpaired", beta=0.5))
    (gradient,) = torch.autograd.grad(costs_of_preferred(objective, u, laws).sum(), u)
    assert gradient.dtype == torch.float32
    assert costs_of_preferred(objective, u[:0], laws).shape == (0,)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpo", {}, "'dpo' cannot take"),
        ("kto", {}, "do not sort"),
        ("mix", {}, "'mix' cannot take"),
        ("aot2", {}, "integrated quantiles"),
        ("aot2_unpaired", {}, "integrated quantiles"),
        ("aot", {"sort": "soft"}, "sort='soft' pools"),
        ("aot_unpaired", {"sort_group": 4}, "sort_group=4"),
        ("aot", {"sort_group": 1}, "sort_group=1"),
    ],
)
def test_what_has_no_meaning_without_a_sorted_batch_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        check_streamable(get_objective(name, **options))
