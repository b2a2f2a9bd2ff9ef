"""Intervals and the length-adjusted rate against closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from distal.errors import ConfigError
from distal.evaluation.judging import Bootstrap, length_adjusted_win_rate, win_rate_interval


def sample(n: int = 60, seed: int = 0) -> tuple[list[float], list[int], list[int]]:
    random = np.random.default_rng(seed)
    ours, theirs = random.integers(10, 500, n), random.integers(10, 300, n)
    chance = 1 / (1 + np.exp(-(0.4 + 1.5 * np.tanh((ours - theirs) / 150))))
    credits = (random.random(n) < chance).astype(float)
    credits[:5] = 0.5
    return credits.tolist(), ours.tolist(), theirs.tolist()


def test_interval_of_two_prompts_is_that_of_the_exact_bootstrap_distribution():
    # The mean is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    assert win_rate_interval([0.0, 1.0], Bootstrap(confidence=0.95)) == (0.0, 1.0)
    assert win_rate_interval([0.0, 1.0], Bootstrap(confidence=0.3)) == (0.5, 0.5)


def test_interval_agrees_with_scipy():
    credits = sample()[0]
    low, high = win_rate_interval(credits, Bootstrap(resamples=20000)) or (0, 0)
    theirs = stats.bootstrap(
        (credits,), np.mean, method="percentile", n_resamples=20000, rng=1
    ).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.01)
    assert high == pytest.approx(theirs.high, abs=0.01)


def test_no_interval_of_one_prompt():
    assert win_rate_interval([1.0], Bootstrap()) is None


def test_the_fit_is_the_minimum_that_scipy_finds():
    credits, ours, theirs = sample()
    found = length_adjusted_win_rate(credits, ours, theirs, Bootstrap(resamples=10))
    y, d = np.array(credits), np.subtract(ours, theirs)
    x = np.tanh(d / d.std())

    def objective(at: np.ndarray) -> float:
        a, b = at
        p, p0 = 1 / (1 + np.exp(-(a + b * x))), 1 / (1 + np.exp(-a))
        fit = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum()
        return float(fit - 0.5 * (np.log(p0) + np.log(1 - p0)) + b * b / 2)

    a, b = optimize.minimize(objective, np.zeros(2), tol=1e-12).x
    assert found.win_rate == pytest.approx(1 / (1 + np.exp(-a)), abs=1e-5)
    assert found.slope == pytest.approx(b, abs=1e-4)
    assert found.scale == pytest.approx(d.std())
    assert found.slope > 0.5, "the judge of this sample prefers long answers"
    assert found.interval is not None
    assert found.interval[0] <= found.win_rate <= found.interval[1]


@pytest.mark.parametrize("credits", [[1.0] * 9, [0.0] * 9, [1.0, 0.0, 0.5] * 3])
def test_equal_lengths_give_the_mean_with_one_tie(credits: list[float]):
    found = length_adjusted_win_rate(credits, [7] * 9, [7] * 9, Bootstrap(resamples=50))
    assert found.win_rate == pytest.approx((sum(credits) + 0.5) / 10)
    assert found.slope == 0


def test_verdicts_that_length_alone_decides_are_finite_and_even():
    # Longer always wins: a plain logistic regression has no finite slope.
    lengths = [10, 20, 30, 40] * 5
    found = length_adjusted_win_rate([0.0, 0.0, 1.0, 1.0] * 5, lengths, [25] * 20, Bootstrap(resamples=200))
    assert found.win_rate == pytest.approx(0.5, abs=1e-6)
    assert found.interval is not None
    assert all(map(np.isfinite, (*found.interval, found.slope)))


def test_exchanging_the_sides_mirrors_the_rate():
    credits, ours, theirs = sample()
    one = length_adjusted_win_rate(credits, ours, theirs, Bootstrap(resamples=10))
    other = length_adjusted_win_rate([1 - c for c in credits], theirs, ours, Bootstrap(resamples=10))
    assert one.win_rate + other.win_rate == pytest.approx(1)
    assert one.slope == pytest.approx(other.slope)


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"resamples": 0}])
def test_options_that_cannot_be(options: dict[str, float]):
    with pytest.raises(ConfigError):
        Bootstrap(**options)  # pyright: ignore[reportArgumentType]
