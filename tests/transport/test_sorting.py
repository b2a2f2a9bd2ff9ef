"""Hard sort and quantile functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distal.transport import hard_sort, quantile_function, quantile_gap
from tests.transport.oracles import normal, samples


def test_gradient_follows_the_permutation():
    x = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(hard_sort(x), x, torch.tensor([10.0, 20.0, 30.0]))
    assert gradient.tolist() == [30.0, 10.0, 20.0]


def test_ties_keep_their_order():
    x = torch.tensor([1.0, 0.0, 1.0, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(hard_sort(x), x, torch.arange(4.0))
    assert gradient.tolist() == [2.0, 0.0, 3.0, 1.0]


@given(x=samples(), level=st.floats(0.001, 1.0))
def test_quantile_is_the_smallest_value_whose_distribution_function_reaches_the_level(
    x: Tensor, level: float
):
    reached = [q for q in x.tolist() if (x <= q).double().mean() >= level]
    assert quantile_function(x, level).item() == min(reached)


def test_every_written_percentage_hits_its_order_statistic():
    x = torch.arange(1, 101, dtype=torch.float64)
    assert quantile_function(x, [k / 100 for k in range(1, 101)]).tolist() == x.tolist()


def test_quantiles_match_numpy_inverted_cdf():
    x, levels = normal(37, seed=1), np.linspace(0.005, 1.0, 113)
    expected = np.quantile(x.numpy(), levels, method="inverted_cdf")
    np.testing.assert_array_equal(quantile_function(x, levels.tolist()).numpy(), expected)


@given(x=samples(), copies=st.lists(st.integers(0, 3), min_size=7, max_size=7), level=st.integers(1, 16))
def test_weights_count_as_copies(x: Tensor, copies: list[int], level: int):
    counts = torch.tensor(copies[: x.numel()])
    if counts.sum() == 0:
        counts += 1
    repeated = x.repeat_interleave(counts)
    expected = quantile_function(repeated, level / 16)
    assert quantile_function(x, level / 16, weights=counts) == expected


@given(
    copies=st.lists(st.integers(0, 5), min_size=1, max_size=80).filter(any),
    unit=st.sampled_from([1.0, 3.0, 2.0**-9, 1e300, 7e-310]),
)
def test_whole_weights_are_copies_at_every_level_of_their_total(copies: list[int], unit: float):
    counts = torch.tensor(copies)
    x, total = torch.arange(counts.numel(), dtype=torch.float64), int(counts.sum())
    expected = x.repeat_interleave(counts).tolist()
    levels = torch.arange(1, total + 1, dtype=torch.float64) / total
    # 1e300 times 3 is rounded, and sums of such numbers overflow.
    assert quantile_function(x, levels, weights=counts.double() * unit).tolist() == expected
    if unit == 1.0:
        # The next number above a level belongs to the next copy.
        above = torch.nextafter(levels[:-1], torch.ones_like(levels[:-1]))
        assert quantile_function(x, above, weights=counts).tolist() == expected[1:]


def test_levels_of_weights_that_no_double_holds():
    # 0.1, 0.2 and 0.3 are rounded, and their sums again, a hundred times.
    counts = torch.arange(300) % 3 + 1
    x, levels = torch.arange(300, dtype=torch.float64), torch.arange(1, 601, dtype=torch.float64) / 600
    found = quantile_function(x, levels, weights=counts.double() * 0.1)
    assert found.tolist() == x.repeat_interleave(counts).tolist()


def test_a_sample_of_weight_zero_is_no_sample():
    x, weights = torch.tensor([0.0, 1.0, 2.0, 3.0], requires_grad=True), torch.tensor([0.0, 1.0, 1.0, 0.0])
    value = quantile_function(x, [0.0, 0.5, 1.0], weights=weights)
    assert value.tolist() == [1.0, 1.0, 2.0]
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.tolist() == [0.0, 2.0, 1.0, 0.0]


def test_shape_of_levels_is_kept_and_gradient_flows():
    x = torch.tensor([4.0, 2.0], requires_grad=True)
    value = quantile_function(x, torch.tensor([[0.0, 0.5], [0.6, 1.0]]))
    assert value.tolist() == [[2.0, 2.0], [4.0, 4.0]]
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.tolist() == [2.0, 2.0]


def test_quantile_gap_between_unequal_counts():
    gap = quantile_gap(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 2.0, 3.0]), [1 / 3, 0.5, 2 / 3, 1.0])
    assert gap.tolist() == [-1.0, -2.0, 8.0, 7.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_levels_in_low_precision_mean_the_number_as_written(dtype: torch.dtype):
    # 0.07 in float32 is a little above 7/100, and the eighth value would be the answer to another question.
    x = torch.arange(1, 101, dtype=torch.float64)
    written = torch.tensor([k / 100 for k in range(1, 101)], dtype=dtype)
    distinct = written.unique().tolist()
    for level, found in zip(written.tolist(), quantile_function(x, written).tolist(), strict=True):
        # Several hundredths may round to one number of the type: then the first of them is meant.
        assert found == 1 + written.tolist().index(level)
    assert len(distinct) > 60


def test_weights_and_levels_in_single_precision():
    x, weights = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.2, 0.7])
    assert quantile_function(x, torch.tensor([0.1, 0.3, 0.31]), weights=weights).tolist() == [1.0, 2.0, 3.0]
