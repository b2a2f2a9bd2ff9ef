"""Every public function against every kind of bad input, and against input that is unusual but good."""

# The calls are wrong on purpose.
# pyright: reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from distal.transport import (
    HingeCost,
    LeastSquaresCost,
    LogisticCost,
    QuantileBand,
    SmoothedCost,
    SquaredHingeCost,
    bootstrap_violation_ratio,
    dominance_test,
    dual_potentials,
    hard_sort,
    quantile_function,
    quantile_gap,
    soft_sort,
    transport_cost,
    transport_plan,
    violation_ratio,
)
from tests.transport.oracles import normal

Call = Callable[[Any], Any]
NAN, INF = float("nan"), float("inf")
GOOD = torch.tensor([0.5, 2.0, 1.0])
COST = LogisticCost(0.7)

# Each function with one sample left open, and what the sample is called in its signature.
DIFFERENTIABLE: dict[str, tuple[str, Call]] = {
    "hard_sort": ("x", hard_sort),
    "soft_sort_l2": ("x", lambda x: soft_sort(x, 1.0)),
    "soft_sort_entropic": ("x", lambda x: soft_sort(x, 1.0, "entropic")),
    "quantile_function": ("x", lambda x: quantile_function(x, [0.2, 0.9])),
    "quantile_gap_u": ("u", lambda x: quantile_gap(x, GOOD, [0.2, 0.9])),
    "quantile_gap_v": ("v", lambda x: quantile_gap(GOOD, x, [0.2, 0.9])),
    "transport_cost_u": ("u", lambda x: transport_cost(x, GOOD, COST)),
    "transport_cost_v": ("v", lambda x: transport_cost(GOOD, x, COST)),
}
OTHERS: dict[str, tuple[str, Call]] = {
    "dual_potentials_u": ("u", lambda x: dual_potentials(x, GOOD, COST)),
    "dual_potentials_v": ("v", lambda x: dual_potentials(GOOD, x, COST)),
    "transport_plan_u": ("u", lambda x: transport_plan(x, GOOD)),
    "transport_plan_v": ("v", lambda x: transport_plan(GOOD, x)),
}
STATISTICS: dict[str, tuple[str, Call]] = {
    "violation_ratio_u": ("u", lambda x: violation_ratio(x, GOOD)),
    "violation_ratio_v": ("v", lambda x: violation_ratio(GOOD, x)),
    "dominance_test_u": ("u", lambda x: dominance_test(x, GOOD, resamples=19)),
    "dominance_test_v": ("v", lambda x: dominance_test(GOOD, x, resamples=19)),
    "bootstrap_u": ("u", lambda x: bootstrap_violation_ratio(x, GOOD, resamples=5)),
    "bootstrap_v": ("v", lambda x: bootstrap_violation_ratio(GOOD, x, resamples=5)),
}
TENSORS_ONLY = {**DIFFERENTIABLE, **OTHERS}
ALL = {**TENSORS_ONLY, **STATISTICS}


def each(functions: dict[str, tuple[str, Call]]) -> Any:
    return pytest.mark.parametrize(("name", "call"), functions.values(), ids=functions.keys())


@each(ALL)
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(0), ValueError, "{} is empty"),
        (torch.tensor([1.0, NAN, 2.0]), ValueError, "{} holds 1 values that are NaN or infinite among 3"),
        (torch.tensor([INF, 1.0, -INF]), ValueError, "{} holds 2 values that are NaN or infinite among 3"),
        (torch.ones(2, 2), ValueError, r"{} must be 1-D, got shape \(2, 2\)"),
        (torch.tensor(1.0), ValueError, r"{} must be 1-D, got shape \(\)"),
        (torch.tensor([True, False]), TypeError, "{} must .*, got torch.bool"),
        (torch.ones(2, dtype=torch.complex64), TypeError, "{} must .*, got torch.complex64"),
        (torch.ones(2, device="meta"), ValueError, "{} is on|meta"),
        (None, TypeError, "{} must be .*, got NoneType"),
        ("rewards", TypeError, "{} must be .*, got str"),
        ({"a": 1.0}, TypeError, "{} must be .*, got dict"),
    ],
    ids=["empty", "nan", "inf", "2-D", "0-D", "bool", "complex", "meta", "None", "str", "dict"],
)
def test_bad_samples(name: str, call: Call, bad: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message.format(name)):
        call(bad)


@each(TENSORS_ONLY)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([1, 2]), "{} must have a floating dtype, got torch.int64; convert it with {}.float"),
        (torch.ones(2).to_sparse(), "{} must be a dense tensor, got torch.sparse_coo"),
        ([1.0, 2.0], "{} must be a torch.Tensor, got list"),
        (np.ones(2), "{} must be a torch.Tensor, got ndarray"),
    ],
    ids=["int", "sparse", "list", "array"],
)
def test_differentiated_samples_are_floating_tensors(name: str, call: Call, bad: object, message: str):
    with pytest.raises(TypeError, match=message.format(name, name)):
        call(bad)


@pytest.mark.parametrize("ragged", [[[1.0, 2.0], [3.0]], ["1", "2"], [1.0, None]])
@each(STATISTICS)
def test_lists_that_hold_no_numbers(name: str, call: Call, ragged: object):
    with pytest.raises(TypeError, match=f"{name} must be a 1-D tensor, array or list of numbers, got list"):
        call(ragged)


@each(STATISTICS)
def test_whole_numbers_arrays_and_lists_are_samples_of_statistics(name: str, call: Call):
    expected = repr(call(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)))
    for sample in (torch.tensor([1, 3, 2]), np.array([1, 3, 2], dtype=np.int8), [1, 3, 2], (1.0, 3.0, 2.0)):
        assert repr(call(sample)) == expected
    with pytest.raises(ValueError, match=f"{name} is empty"):
        call([])


def test_lists_keep_their_double_precision():
    # 0.1 and 0.1 + 1e-12 are one number in float32.
    assert violation_ratio([0.1 + 1e-12], [0.1]) == 0.0
    assert violation_ratio([0.1], [0.1 + 1e-12]) == 1.0


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e160, 1e308])
def test_ratios_of_extreme_values_neither_overflow_nor_vanish(factor: float):
    u, v = np.array([-1.0, 0.5, 1.0]), np.array([-0.25, 0.0])
    for order in (1, 2):
        assert violation_ratio(factor * u, factor * v, order) == pytest.approx(
            violation_ratio(u, v, order), rel=1e-12
        )


@each(ALL)
def test_one_element_is_a_law(name: str, call: Call):
    one = torch.tensor([3.0])
    if call in [STATISTICS[f"dominance_test_{side}"][1] for side in "uv"]:
        with pytest.raises(ValueError, match="a test needs two samples of each"):
            call(one)
        return
    found = call(one)
    values = found if isinstance(found, tuple) else (found,)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in values)


@each({**OTHERS, **STATISTICS})
def test_what_has_no_gradient_takes_samples_that_ask_for_one(name: str, call: Call):
    sample = torch.tensor([3.0, 1.0, 2.5], requires_grad=True)
    assert repr(call(sample)) == repr(call(sample.detach()))


@each(DIFFERENTIABLE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_its_gradient_returns_in_half(
    name: str, call: Call, dtype: torch.dtype
):
    half = normal(40, seed=1, scale=5).to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    value, expected = call(half), call(single)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    upstream = torch.arange(1.0, 1 + value.numel()).view(value.shape)
    (gradient,) = torch.autograd.grad(value, half, upstream)
    (in_single,) = torch.autograd.grad(expected, single, upstream)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, in_single.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_without_a_gradient(dtype: torch.dtype):
    half = normal(40, seed=1, scale=5).to(dtype)
    for found, expected in zip(
        dual_potentials(half, GOOD, COST), dual_potentials(half.float(), GOOD, COST), strict=True
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    for _, call in STATISTICS.values():
        assert repr(call(half)) == repr(call(half.double()))


def test_eight_bit_floats_are_computed_in_single():
    x = torch.tensor([2.0, 1.0]).to(torch.float8_e4m3fn)
    assert hard_sort(x).tolist() == [1.0, 2.0]
    assert hard_sort(x).dtype == torch.float32


def test_precisions_are_joined():
    u = GOOD.half().requires_grad_()
    value = transport_cost(u, GOOD.double(), COST)
    assert value.dtype == torch.float64
    value.backward()
    assert u.grad is not None
    assert u.grad.dtype == torch.float16


WEIGHTED: dict[str, Call] = {
    "u_weights": lambda w: transport_cost(GOOD, GOOD[:2], COST, u_weights=w),
    "v_weights": lambda w: transport_cost(GOOD[:2], GOOD, COST, v_weights=w),
    "u_weights of the plan": lambda w: transport_plan(GOOD, GOOD[:2], u_weights=w).mass,
    "v_weights of the plan": lambda w: transport_plan(GOOD[:2], GOOD, v_weights=w).mass,
    "u_weights of potentials": lambda w: dual_potentials(GOOD, GOOD[:2], COST, u_weights=w)[0],
    "v_weights of potentials": lambda w: dual_potentials(GOOD[:2], GOOD, COST, v_weights=w)[0],
    "weights": lambda w: quantile_function(GOOD, [0.1, 0.5, 0.9], weights=w),
}
each_weighted = pytest.mark.parametrize(("where", "call"), WEIGHTED.items(), ids=WEIGHTED.keys())


@each_weighted
@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0, 1.0, 1.0], TypeError, "must be a torch.Tensor, got list"),
        (torch.tensor([True, False, True]), TypeError, "must hold real numbers, got torch.bool"),
        (torch.ones(3, dtype=torch.complex64), TypeError, "must hold real numbers, got torch.complex64"),
        (torch.ones(4), ValueError, r"must have one weight per sample, shape \(3,\), got \(4,\)"),
        (torch.ones(3, 1), ValueError, r"must have one weight per sample, shape \(3,\), got \(3, 1\)"),
        (torch.tensor([1.0, -1.0, 1.0]), ValueError, "finite and non-negative, got -1.0 at position 1"),
        (torch.tensor([1.0, 1.0, NAN]), ValueError, "finite and non-negative, got nan at position 2"),
        (torch.tensor([INF, 1.0, 1.0]), ValueError, "finite and non-negative, got inf at position 0"),
        (torch.zeros(3), ValueError, "must have a positive sum, got weights that are all 0"),
        (torch.ones(3, requires_grad=True), ValueError, "requires a gradient"),
        (torch.ones(3, device="meta"), ValueError, "is on meta and its sample is on cpu"),
    ],
    ids=["list", "bool", "complex", "long", "2-D", "negative", "nan", "inf", "zero", "grad", "device"],
)
def test_bad_weights(where: str, call: Call, weights: object, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{where.split()[0]} .*{message}"):
        call(weights)


@each_weighted
def test_weights_need_not_sum_to_one(where: str, call: Call):
    weights = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
    expected = call(weights)
    # Powers of two, so that nothing but the scale changes.
    for scale in (2.0**-1000, 0.125, 4.0, 2.0**1000 * 2.0**21):
        torch.testing.assert_close(call(scale * weights), expected, rtol=0, atol=0)
    torch.testing.assert_close(call(weights.long()), expected, rtol=0, atol=0)
    torch.testing.assert_close(call(weights.half()), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        ("logistic", TypeError, r"cost must be a callable such as LogisticCost\(\), got str"),
        (lambda gap: 3.0, TypeError, "cost must return a torch.Tensor, got float"),
        (lambda gap: gap.int(), TypeError, "cost must return a floating tensor, got torch.int32"),
        (lambda gap: gap.sum(), ValueError, r"cost must work elementwise: \(\d,\) in, \(\) out"),
    ],
    ids=["name", "number", "int", "sum"],
)
def test_bad_costs(cost: Any, error: type[Exception], message: str):
    for call in (transport_cost, dual_potentials):
        for v in (GOOD, GOOD[:2]):
            with pytest.raises(error, match=message):
                call(GOOD, v, cost)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LogisticCost(0.0), ValueError, "beta must be positive and finite .* got 0.0"),
        (lambda: LogisticCost(-1.0), ValueError, "beta must be positive and finite .* got -1.0"),
        (lambda: LogisticCost(NAN), ValueError, "beta must be positive and finite .* got nan"),
        (lambda: LogisticCost(INF), ValueError, "beta must be positive and finite .* got inf"),
        (lambda: LogisticCost("0.1"), TypeError, "beta must be a number, got str"),
        (lambda: LogisticCost(True), TypeError, "beta must be a number, got bool"),
        (lambda: HingeCost("1"), TypeError, "margin must be a number, got str"),
        (lambda: HingeCost(INF), ValueError, r"margin must be finite \(nats\), got inf"),
        (lambda: SquaredHingeCost(True), TypeError, "margin must be a number, got bool"),
        (lambda: SquaredHingeCost(NAN), ValueError, "margin must be finite .* got nan"),
        (lambda: LeastSquaresCost(None), TypeError, "margin must be a number, got NoneType"),
        (lambda: LeastSquaresCost(-INF), ValueError, "margin must be finite .* got -inf"),
        (lambda: SmoothedCost("hinge", 0.1), TypeError, "cost must be a callable .* got str"),
        (lambda: SmoothedCost(COST, "a"), TypeError, "smoothing must be a number, got str"),
        (lambda: SmoothedCost(COST, NAN), ValueError, "smoothing must be finite"),
        (lambda: SmoothedCost(COST, 0.5), ValueError, r"smoothing must lie in \[0, 0.5\), got 0.5"),
        (lambda: QuantileBand("a", 1.0), TypeError, "low must be a number, got str"),
        (lambda: QuantileBand(0.0, NAN), ValueError, "high must be finite"),
        (lambda: QuantileBand(0.5, 0.5), ValueError, "a band of levels needs 0 <= low < high <= 1"),
        (lambda: soft_sort(GOOD, 0.0), ValueError, "strength must be positive and finite .* got 0.0"),
        (lambda: soft_sort(GOOD, -1.0), ValueError, "strength must be positive and finite .* got -1.0"),
        (lambda: soft_sort(GOOD, NAN), ValueError, "strength must be positive and finite .* got nan"),
        (lambda: soft_sort(GOOD, INF), ValueError, "strength must be positive and finite .* got inf"),
        (lambda: soft_sort(GOOD, "1"), TypeError, "strength must be a number, got str"),
        (lambda: soft_sort(GOOD, GOOD[0]), TypeError, "strength must be a number, got Tensor"),
        (
            lambda: soft_sort(GOOD, 1.0, "entropy"),
            ValueError,
            "unknown regularization 'entropy'; did you mean 'entropic'. Known: l2, entropic",
        ),
        (lambda: soft_sort(GOOD, 1.0, 2), TypeError, "regularization must be one of l2, entropic, got int"),
        (lambda: quantile_function(GOOD, -0.1), ValueError, r"levels must lie in \[0, 1\], got \[-0.1\]"),
        (lambda: quantile_function(GOOD, [0.5, NAN]), ValueError, r"levels must lie in \[0, 1\]"),
        (lambda: quantile_function(GOOD, "half"), TypeError, "levels must be a number, a list or a tensor"),
        (lambda: quantile_function(GOOD, None), TypeError, "levels must be .*, got NoneType"),
        (lambda: quantile_function(GOOD, torch.tensor([True])), TypeError, "levels must hold real numbers"),
        (lambda: quantile_function(GOOD, GOOD.to("meta")), ValueError, "levels are on meta"),
        (
            lambda: quantile_function(GOOD, torch.tensor([0.5], requires_grad=True)),
            ValueError,
            "levels require a gradient",
        ),
        (lambda: quantile_gap(GOOD, GOOD, 1.5), ValueError, r"levels must lie in \[0, 1\], got \[1.5\]"),
        (lambda: violation_ratio(GOOD, GOOD, 3), ValueError, "order must be 1 .* or 2 .*, got 3"),
        (lambda: violation_ratio(GOOD, GOOD, "1"), ValueError, "order must be 1 .* or 2 .*, got '1'"),
        (lambda: violation_ratio(GOOD, GOOD, True), ValueError, "order must be 1 .* or 2 .*, got True"),
        (lambda: violation_ratio(GOOD, GOOD, tolerance=-1.0), ValueError, "tolerance must be a non-negative"),
        (lambda: violation_ratio(GOOD, GOOD, tolerance=NAN), ValueError, "tolerance must be finite"),
        (lambda: violation_ratio(GOOD, GOOD, tolerance="a"), TypeError, "tolerance must be a number, got str"),
    ],
)  # fmt: skip
def test_bad_options(call: Callable[[], object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()


RESAMPLING: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"order": 0}, ValueError, "order must be 1 .* or 2 .*, got 0"),
    ({"resamples": 1}, ValueError, "resamples must be at least 2, got 1"),
    ({"resamples": 20.0}, TypeError, "resamples must be a whole number, got float"),
    ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ({"seed": 1.5}, TypeError, "seed must be a whole number, got float"),
    ({"paired": True}, ValueError, "paired samples must have equal lengths, got 2 in u and 3 in v"),
    ({"paired": "no"}, TypeError, "paired must be True or False, got str"),
    ({"clusters": [1, 2]}, ValueError, "clusters of unpaired samples must be a tuple"),
    ({"clusters": ([1, 2], [1, 2])}, ValueError, r"one label per sample, 2 and 3, got \(2,\) and \(2,\)"),
    ({"clusters": ([1, 1], [1, 1, 1])}, ValueError, "at least two different labels, got 1"),
    ({"clusters": ([1, None], [1, 2, 3])}, TypeError, "clusters must be all numbers or all strings, got object"),
    ({"clusters": (["1", "2"], [1, 2, 3])}, TypeError, "clusters must be all numbers or all strings"),
    ({"clusters": ([1.0, NAN], [1, 2, 3])}, ValueError, "clusters holds 1 labels that are NaN"),
    ({"clusters": 3, "v": [0.0, 1.0], "paired": True}, ValueError, r"one label per sample, 2 and 2, got \(\)"),
]  # fmt: skip
LEVELS: list[tuple[object, type[Exception], str]] = [
    (0.0, ValueError, "must lie strictly between 0 and 1, got 0.0"),
    (1, ValueError, "must lie strictly between 0 and 1, got 1"),
    (NAN, ValueError, "must lie strictly between 0 and 1, got nan"),
    ("0.05", TypeError, "must be a number between 0 and 1, got str"),
]
TEST_ONLY: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"level": value}, error, f"level {message}") for value, error, message in LEVELS),
    ({"method": "asymptotic", "resamples": 99}, ValueError, "resamples is not used by method='asymptotic', got 99"),
    ({"method": "asymptotic", "seed": 0}, ValueError, "seed is not used by method='asymptotic', got 0"),
    ({"threshold": 1.0}, ValueError, "threshold must lie strictly between 0 and 1, got 1.0"),
    ({"threshold": None}, TypeError, "threshold must be a number between 0 and 1, got NoneType"),
    ({"method": "bootstap"}, ValueError, "unknown method 'bootstap'; did you mean 'bootstrap'"),
    ({"method": None}, TypeError, "method must be one of asymptotic, bootstrap, got NoneType"),
]  # fmt: skip
INTERVAL_ONLY: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"confidence": value}, error, f"confidence {message}") for value, error, message in LEVELS
]


@pytest.mark.parametrize(("options", "error", "message"), [*RESAMPLING, *TEST_ONLY])
def test_bad_options_of_the_test(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        dominance_test(**({"u": [1.0, 2.0], "v": [0.0, 1.0, 5.0]} | options))


@pytest.mark.parametrize(("options", "error", "message"), [*RESAMPLING, *INTERVAL_ONLY])
def test_bad_options_of_the_interval(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        bootstrap_violation_ratio(**({"u": [1.0, 2.0], "v": [0.0, 1.0, 5.0]} | options))


def test_numbers_of_numpy_are_numbers():
    assert LogisticCost(np.float32(0.5))(GOOD).tolist() == LogisticCost(0.5)(GOOD).tolist()
    assert torch.equal(soft_sort(GOOD, np.float64(2.0)), soft_sort(GOOD, 2.0))
    options = {"level": np.float64(0.1), "resamples": np.int64(9), "seed": np.uint8(3)}
    assert dominance_test(GOOD, -GOOD, **options) == dominance_test(
        GOOD, -GOOD, level=0.1, resamples=9, seed=3
    )


@pytest.mark.parametrize("kind", ["l2", "entropic"])
@pytest.mark.parametrize("strength", [5e-324, 1e-300, 1e-40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strengths_near_zero_are_the_hard_sort(kind: Any, strength: float, dtype: torch.dtype):
    x = normal(9, seed=1, scale=1e3).to(dtype)
    assert torch.equal(soft_sort(x, strength, kind), hard_sort(x))


@pytest.mark.parametrize("strength", [1e30, 1e300, 1.7e308])
def test_infinite_strengths_are_the_mean(strength: float):
    x = normal(9, seed=1).double()
    assert soft_sort(x, strength).tolist() == pytest.approx([x.mean().item()] * 9)
    level = x.logsumexp(0).item() - math.log(9)
    assert soft_sort(x, strength, "entropic").tolist() == pytest.approx([level] * 9)
