"""Soft sort against its definition (a generic projection onto the permutahedron), PAV, and its own laws."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distal.transport import hard_sort, isotonic, soft_sort
from distal.transport.soft_sorting import Regularization
from tests.transport.oracles import normal, samples

each_kind = pytest.mark.parametrize("kind", ["l2", "entropic"])


@pytest.fixture(params=["by intervals", "by merging"], scope="module")
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to find the blocks, whichever the size of the sample would choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isotonic, "_INTERVALS", 0 if request.param == "by merging" else 1 << 40)
        yield request.param


def projection(x: Tensor, strength: float, kind: Regularization) -> np.ndarray:
    """The definition, by a generic solver: every subset of k entries sums to at least the k smallest of the hull."""
    optimize = pytest.importorskip("scipy.optimize")
    n = x.numel()
    ramp, hull = np.arange(1, n + 1) / strength, np.sort(x.numpy())
    if kind == "entropic":
        ramp, hull = np.exp(ramp), np.exp(hull)
    subsets = [list(chosen) for k in range(1, n) for chosen in combinations(range(n), k)]
    lower = [hull[: len(chosen)].sum() for chosen in subsets]
    member = np.array([[i in chosen for i in range(n)] for chosen in subsets], dtype=float).reshape(-1, n)

    def distance(p: np.ndarray) -> float:
        return np.square(p - ramp).sum() / 2 if kind == "l2" else (p * np.log(p / ramp) - p).sum()

    def slope(p: np.ndarray) -> np.ndarray:
        return p - ramp if kind == "l2" else np.log(p / ramp)

    constraints = [{"type": "eq", "fun": lambda p: p.sum() - hull.sum(), "jac": lambda p: np.ones(n)}]
    if n > 1:
        constraints.append({"type": "ineq", "fun": lambda p: member @ p - lower, "jac": lambda p: member})
    start = np.full(n, hull.mean())
    answer = optimize.minimize(
        distance,
        start,
        jac=slope,
        constraints=constraints,
        method="SLSQP",
        bounds=[(1e-9, None)] * n if kind == "entropic" else None,
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return answer.x if kind == "l2" else np.log(answer.x)


@each_kind
@pytest.mark.parametrize("strength", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_soft_sort_is_the_projection_onto_the_permutahedron(kind: Regularization, strength: float, n: int):
    x = normal(n, seed=n)
    np.testing.assert_allclose(soft_sort(x, strength, kind).numpy(), projection(x, strength, kind), atol=2e-5)


@given(
    x=st.lists(st.integers(-40, 40), min_size=1, max_size=70), strength=st.sampled_from([0.1, 0.3, 1.0, 30.0])
)
@pytest.mark.usefixtures("way")
def test_l2_blocks_are_those_of_isotonic_regression(x: list[int], strength: float):
    optimize = pytest.importorskip("scipy.optimize")
    sample = torch.tensor(x, dtype=torch.float64)
    ramp = np.arange(1, len(x) + 1) / strength
    fit = optimize.isotonic_regression(ramp - np.sort(sample.numpy())).x
    np.testing.assert_allclose(soft_sort(sample, strength).numpy(), ramp - fit, atol=1e-11)


def by_single_steps(x: Tensor, strength: float) -> list[float]:
    """Entropic soft sort by pool-adjacent-violators, entry by entry."""
    ramp = torch.arange(1, x.numel() + 1, dtype=torch.float64) / strength
    ordered, blocks = x.sort().values, []
    for k in range(x.numel()):
        blocks.append([k])
        while len(blocks) > 1:
            left, right = (ramp[b].logsumexp(0) - ordered[b].logsumexp(0) for b in blocks[-2:])
            if left <= right:
                break
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    fits = [(ramp[b] - ramp[b].logsumexp(0) + ordered[b].logsumexp(0)).tolist() for b in blocks]
    return [value for fit in fits for value in fit]


@given(
    x=st.lists(st.integers(-40, 40), min_size=1, max_size=40), strength=st.sampled_from([0.1, 0.3, 1.0, 30.0])
)
@pytest.mark.usefixtures("way")
def test_entropic_blocks_are_those_of_single_steps(x: list[int], strength: float):
    sample = torch.tensor(x, dtype=torch.float64)
    expected = by_single_steps(sample, strength)
    assert soft_sort(sample, strength, "entropic").tolist() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("n", [100, 1000, 4097])
@pytest.mark.parametrize("shape", ["normal", "cauchy", "convex", "concave", "one_outlier"])
def test_large_samples_equal_isotonic_regression(n: int, shape: str):
    optimize = pytest.importorskip("scipy.optimize")
    noise = normal(n, seed=n)
    steps = torch.arange(n, dtype=torch.float64)
    x = {
        "normal": 100 * noise,
        "cauchy": 3 * noise / normal(n, seed=7),
        "convex": steps.square() / n,
        "concave": -steps.square() / n,
        "one_outlier": steps / 3 + (steps == n - 1) * 1e4,
    }[shape]
    ramp = np.arange(1, n + 1) / 0.7
    expected = ramp - optimize.isotonic_regression(ramp - np.sort(x.numpy())).x
    np.testing.assert_allclose(soft_sort(x, 0.7).numpy(), expected, atol=1e-8, rtol=1e-9)


@each_kind
def test_both_ways_to_find_the_blocks_agree(kind: Regularization, monkeypatch: pytest.MonkeyPatch):
    x = torch.cat([30 * normal(300, seed=1), 500 * normal(40, seed=2), 900 + normal(200, seed=3)])
    found: list[Tensor] = []
    for limit in (0, 1 << 40):
        monkeypatch.setattr(isotonic, "_INTERVALS", limit)
        for strength in (0.03, 0.1, 1.0):
            at = x.clone().requires_grad_()
            value = soft_sort(at, strength, kind)
            found += [value.detach(), *torch.autograd.grad(value.square().mean(), at)]
    for direct, merged in zip(found[:6], found[6:], strict=True):
        torch.testing.assert_close(direct, merged, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", ["normal", "one block", "pairs"])
def test_a_hundred_thousand_values_take_linear_memory(shape: str):
    n = 100_000
    noise, steps = normal(n, seed=1), torch.arange(n, dtype=torch.float64)
    x = {"normal": 100 * noise, "one block": 1e3 * steps, "pairs": 3 * steps + 2 * (steps % 2)}[shape]
    value = soft_sort(x, 0.3)
    assert value.sum().item() == pytest.approx(x.sum().item(), rel=1e-9)
    assert bool((value.diff() <= 1 / 0.3 + 1e-6).all())


@each_kind
@given(x=samples(1, 9))
def test_equals_the_hard_sort_while_no_gap_exceeds_the_inverse_strength(kind: Regularization, x: Tensor):
    gaps = hard_sort(x).diff()
    largest = max(gaps.max().item() if gaps.numel() else 0.0, 1e-3)
    assert torch.equal(soft_sort(x, 1 / largest * (1 - 1e-9), kind), hard_sort(x))
    if x.unique().numel() > 1:
        assert not torch.allclose(soft_sort(x, 2 / largest, kind), hard_sort(x))


@given(x=samples(1, 9), strength=st.sampled_from([0.1, 1.0, 10.0]))
def test_sums_are_kept_and_values_ascend_by_at_most_the_inverse_strength(x: Tensor, strength: float):
    l2, entropic = soft_sort(x, strength), soft_sort(x, strength, "entropic")
    assert l2.sum().item() == pytest.approx(x.sum().item(), abs=1e-12)
    assert entropic.logsumexp(0).item() == pytest.approx(x.logsumexp(0).item(), abs=1e-12)
    for value in (l2, entropic):
        gaps = value.diff()
        # Two blocks that meet at the same value may differ by its last bit.
        assert bool((gaps >= -1e-12).all())
        assert bool((gaps <= 1 / strength + 1e-12).all())


@each_kind
@given(x=samples(1, 9), shift=st.integers(-3, 3), factor=st.sampled_from([0.5, 2.0]))
def test_shift_and_scale(kind: Regularization, x: Tensor, shift: int, factor: float):
    value = soft_sort(x, 1.5, kind)
    torch.testing.assert_close(soft_sort(x.flip(0) + shift, 1.5, kind), value + shift)
    if kind == "l2":
        torch.testing.assert_close(soft_sort(factor * x, 1.5 / factor, kind), factor * value)


@each_kind
@pytest.mark.parametrize("strength", [0.2, 0.7, 3.0])
def test_gradient_and_second_gradient_in_double(kind: Regularization, strength: float):
    x = (3 * normal(9, seed=3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_sort(x, strength, kind), x)
    assert torch.autograd.gradgradcheck(lambda x: soft_sort(x, strength, kind).square(), x)


def test_gradient_of_a_pooled_block_is_spread():
    upstream = torch.tensor([1.0, 2.0, 6.0])
    x = torch.tensor([0.0, 100.0, 50.0], requires_grad=True)
    (l2,) = torch.autograd.grad(soft_sort(x, 1.0), x, upstream)
    assert l2.tolist() == [3.0, 3.0, 3.0]
    (entropic,) = torch.autograd.grad(soft_sort(x, 1.0, "entropic"), x, upstream)
    assert entropic.tolist() == pytest.approx(
        [9 * p for p in torch.softmax(x.detach(), 0).tolist()], abs=1e-6
    )


@each_kind
def test_single_precision_and_extreme_values(kind: Regularization):
    x = torch.tensor([-1e4, 1e4, 0.0, 3.0], requires_grad=True)
    value = soft_sort(x, 0.1, kind)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert bool(torch.isfinite(value).all())
    assert gradient.sum().item() == pytest.approx(4.0)
    half = soft_sort(x.detach().bfloat16(), 0.1, kind)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, soft_sort(x.detach().bfloat16().double(), 0.1, kind).float())
