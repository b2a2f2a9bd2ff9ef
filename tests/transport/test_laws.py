"""Laws as tables: a sample's partners against the solver's coupling and against integration over levels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distal.transport import QuantileBand, quantile_function, transport_plan
from distal.transport.laws import partners, weighted_law
from tests.transport.oracles import normal, samples


def joined(x, own, other, **options):
    """Mass between each sample and each value of the other law, as a table."""
    found = partners(x, own, other, **options)
    table = torch.zeros(x.numel(), other.values.numel(), dtype=torch.float64)
    return table.index_put((found.sample, torch.searchsorted(other.values, found.value)), found.share)


def integer_weights(n):
    return st.lists(st.integers(1, 5), min_size=n, max_size=n).map(
        lambda w: torch.tensor(w, dtype=torch.float64)
    )


@given(samples(), samples(), st.data())
def test_partners_are_the_monotone_coupling(u, v, data):
    """Oracle: the solver's plan, which merges two grids and knows nothing of tables."""
    a, b = data.draw(integer_weights(u.numel())), data.draw(integer_weights(v.numel()))
    own, other = weighted_law(u, a), weighted_law(v, b)
    plan = transport_plan(u, v, u_weights=a, v_weights=b)
    expected = torch.zeros(own.values.numel(), other.values.numel(), dtype=torch.float64)
    row = torch.searchsorted(own.values, u[plan.u_index])
    column = torch.searchsorted(other.values, v[plan.v_index])
    expected = expected.index_put((row, column), plan.mass, accumulate=True)
    mass = joined(own.values, own, other, own_weight=0.0)
    torch.testing.assert_close(mass, expected / expected.sum(1, keepdim=True), rtol=0, atol=1e-12)


@given(samples(), samples(), st.integers(-12, 12).map(lambda k: k / 4), st.sampled_from([0.25, 1.0, 3.0]))
def test_a_sample_counts_in_its_own_law(u, v, x, weight):
    """Adding the sample to the law by hand, then asking with no weight of its own, is the same."""
    at = torch.tensor([x], dtype=torch.float64)
    with_it = weighted_law(torch.cat([u, at]), torch.cat([torch.ones_like(u), at.new_tensor([weight])]))
    other = weighted_law(v)
    torch.testing.assert_close(
        joined(at, weighted_law(u), other, own_weight=weight),
        joined(at, with_it, other, own_weight=0.0),
        rtol=0,
        atol=1e-12,
    )


@given(samples(), samples(), st.sampled_from([None, QuantileBand(0.0, 0.5), QuantileBand(0.2, 0.7)]))
def test_shares_are_integrals_over_levels(u, v, band):
    """Oracle: the midpoints of a fine grid of levels, each sent through the quantile functions."""
    count = 2520  # a multiple of 1, ..., 7, so that no cell straddles a break
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    weight = (
        torch.ones_like(at) if band is None else band(at + 0.5 / count).sub(band(at - 0.5 / count)) * count
    )
    q_u, q_v = quantile_function(u, at), quantile_function(v, at)
    own, other = weighted_law(u), weighted_law(v)
    got = joined(own.values, own, other, own_weight=0.0, distortion=band)
    for i, x in enumerate(own.values):
        here = q_u == x
        for j, y in enumerate(other.values):
            expected = weight[here & (q_v == y)].sum() / here.sum()
            assert got[i, j] == pytest.approx(expected.item(), abs=1e-9)


def test_one_samples_answer_does_not_depend_on_the_others():
    own, other, x = weighted_law(normal(40, seed=1)), weighted_law(normal(30, seed=2)), normal(9, seed=3)
    together = joined(x, own, other)
    alone = torch.cat([joined(x[i : i + 1], own, other) for i in range(9)])
    assert torch.equal(together, alone)
    torch.testing.assert_close(together.sum(1), torch.ones(9, dtype=torch.float64))


def test_atoms_without_weight_are_no_atoms():
    law = weighted_law(torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 0.0, 0.5]))
    assert law.values.tolist() == [1.0, 3.0]
    assert law.upto.tolist() == [2.5, 3.5]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda law: weighted_law(torch.tensor([])), ValueError, "values is empty"),
        (lambda law: weighted_law(torch.tensor([1.0, float("nan")])), ValueError, "NaN or infinite"),
        (lambda law: weighted_law(torch.tensor([1.0]), torch.tensor([-1.0])), ValueError, "non-negative"),
        (
            lambda law: weighted_law(torch.tensor([1.0]), torch.tensor([0.0])),
            ValueError,
            "positive sum",
        ),
        (lambda law: weighted_law(torch.tensor([1])), TypeError, "floating dtype"),
        (lambda law: partners(torch.tensor([float("inf")]), law, law), ValueError, "NaN or infinite"),
        (lambda law: partners(torch.tensor([1.0]), law, law, own_weight=-1.0), ValueError, "own_weight"),
        (
            lambda law: partners(torch.tensor([1.0]), law, law, own_weight=float("nan")),
            ValueError,
            "own_weight must be finite .*, got nan",
        ),
        (
            lambda law: partners(torch.tensor([1.0]), law, law, own_weight="1"),  # pyright: ignore[reportArgumentType]
            TypeError,
            "own_weight must be a number, got str",
        ),
        (
            lambda law: partners(torch.tensor([1.5]), law, law, own_weight=1e-20),
            ValueError,
            "own_weight=1e-20 is lost beside the law's 2, give them more",
        ),
        (
            lambda law: partners(torch.tensor([1.5]), law, law, own_weight=0.0),
            ValueError,
            "not in their own law",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(weighted_law(torch.tensor([1.0, 2.0])))
