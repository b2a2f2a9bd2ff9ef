"""Equal lengths: where length explains everything, nothing, and what is in between."""

from __future__ import annotations

import numpy as np
import pytest

from distal.errors import DataError
from distal.evaluation import DominanceCertificate, LengthControl, dominance_certificate
from distal.evaluation.lengths import Strata


def _controlled(c: DominanceCertificate) -> LengthControl:
    assert c.length_controlled is not None
    return c.length_controlled


def test_weights_by_hand():
    """Shares 1/2, 1/2 and 1/4, 3/4: overlap weights 1/6 and 3/10, normalised 5/14 and 9/14."""
    strata = Strata.of(np.array([3, 3, 7, 7]), np.array([3, 7, 7, 7]), fewest=1)
    on_u, on_v = strata.weights(np.ones((1, 4), dtype=int), np.ones((1, 4), dtype=int))
    np.testing.assert_allclose(on_u[0] * 14, [2.5, 2.5, 4.5, 4.5])
    np.testing.assert_allclose(on_v[0] * 14, [5, 3, 3, 3])


def test_strata_hold_enough_of_both_and_outer_lengths_weigh_nothing():
    generator = np.random.default_rng(0)
    u, v = generator.integers(10, 60, 300), generator.integers(0, 40, 200)
    strata = Strata.of(u, v)
    weights = strata.weights(np.ones((1, 300), dtype=int), np.ones((1, 200), dtype=int))
    assert not weights[0][0][u > v.max()].any()
    assert not weights[1][0][v < u.min()].any()
    for k in np.unique(strata.u[weights[0][0] > 0]):
        assert min(np.sum(strata.u == k), np.sum(strata.v == k)) >= 10
        # The same mass on both sides, and one interval of lengths.
        assert weights[0][0][strata.u == k].sum() == pytest.approx(weights[1][0][strata.v == k].sum())
        inside = np.concatenate([u[strata.u == k], v[strata.v == k]])
        assert not np.any((u >= inside.min()) & (u <= inside.max()) & (strata.u != k))


@pytest.mark.parametrize("paired", [True, False])
def test_length_that_explains_everything_leaves_nothing(paired: bool):
    generator = np.random.default_rng(1)
    lengths = generator.integers(5, 13, 400), generator.integers(3, 11, 400)
    u, v = (0.7 * side + 2.0 for side in lengths)
    c = dominance_certificate(u, v, paired=paired, resamples=100, lengths=lengths, order=2)
    assert c.decision == "dominance"
    controlled = _controlled(c)
    assert controlled.decision == "undefined"
    assert controlled.mean_gap == pytest.approx(0, abs=1e-12)
    assert controlled.auc == pytest.approx(0.5)
    assert controlled.balance.weighted_preferred == pytest.approx(controlled.balance.weighted_other)
    assert controlled.balance.left_out_preferred == pytest.approx(np.mean(lengths[0] > 10))


def test_length_and_noise_leave_no_gap_that_could_be_told_from_zero():
    generator = np.random.default_rng(2)
    lengths = generator.integers(5, 200, 1500), generator.integers(3, 150, 1500)
    u, v = (0.1 * side + generator.normal(size=1500) for side in lengths)
    c = dominance_certificate(u, v, paired=False, resamples=200, lengths=lengths)
    low, high = _controlled(c).mean_gap_ci
    assert c.mean_gap_ci[0] > 2
    assert low < 0.1
    assert high - low < 0.4
    balance = _controlled(c).balance
    assert (
        abs(balance.weighted_preferred - balance.weighted_other)
        < 2
        < balance.mean_preferred - balance.mean_other
    )


def test_length_that_explains_nothing_changes_nothing():
    generator = np.random.default_rng(3)
    lengths = generator.integers(5, 30, 1000), generator.integers(5, 30, 1000)
    u, v = generator.normal(1, 1, 1000), generator.normal(0, 1, 1000)
    c = dominance_certificate(u, v, paired=False, resamples=200, lengths=lengths)
    controlled = _controlled(c)
    assert controlled.decision == c.decision == "dominance"
    assert controlled.mean_gap == pytest.approx(c.mean_gap, abs=0.03)
    assert controlled.auc == pytest.approx(c.auc, abs=0.02)
    np.testing.assert_allclose(controlled.curves.gap[10:90], c.curves.gap[10:90], atol=0.15)


def test_effects_beside_length_survive():
    """Preferred answers are longer by chance of the data, and better by one nat whatever their length."""
    generator = np.random.default_rng(4)
    lengths = generator.integers(10, 60, 1200), generator.integers(5, 50, 1200)
    u = 1.0 + 0.2 * lengths[0] + generator.normal(size=1200)
    v = 0.2 * lengths[1] + generator.normal(size=1200)
    low, high = _controlled(
        dominance_certificate(u, v, paired=False, resamples=200, lengths=lengths)
    ).mean_gap_ci
    assert low < 1.0 < high
    assert low > 0.5


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            ([1, 2], [1, 2, 3]),
            r"one whole number of tokens per preferred reward, 3 of them, got shape \(2,\)",
        ),
        (([1.5, 2, 3], [1, 2, 3]), r"of float64"),
        (([1, 2, 3], [7, 8, 9]), r"no length is found among preferred and other completions alike"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths: tuple[list[float], list[float]], message: str):
    with pytest.raises(DataError, match=message):
        dominance_certificate([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], paired=False, resamples=39, lengths=lengths)
