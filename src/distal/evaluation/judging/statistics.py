"""How sure a win rate is, and what it would be were all answers of the same length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distal.errors import ConfigError
from distal.evaluation.intervals import percentile_interval
from distal.evaluation.statistics import FloatArray

__all__ = ["Bootstrap", "LengthAdjusted", "length_adjusted_win_rate", "win_rate_interval"]

Interval = tuple[float, float]

FORMULA = (
    "P(win) = sigmoid(a + b * tanh((length of the model's answer - length of the baseline's) / sd)), lengths in "
    "characters, sd their differences' standard deviation; a and b minimise the cross-entropy of the preferences, with "
    "half a pseudo-win and half a pseudo-loss at equal length and the penalty b^2 / 2; reported is sigmoid(a), the "
    "win rate at equal length"
)

_BLOCK = 1 << 22
_STEPS = 60
_PENALTY = 1.0
_ROUNDING = 1e-12
_PSEUDO = 1.0
"""Weight of the pseudo-observation: one tie at equal length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How intervals are found.

    Attributes:
        confidence: of the intervals, between 0 and 1.
        resamples: how many.
        seed: of the draws.
    """

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie between 0 and 1; got {self.confidence}.")
        if self.resamples < 1:
            raise ConfigError(f"resamples must be at least 1; got {self.resamples}.")


def win_rate_interval(credits: Sequence[float], bootstrap: Bootstrap) -> Interval | None:
    """Percentile bootstrap interval of the mean credit; whole prompts are drawn, with all that was said about each.

    Args:
        credits: one per prompt, in [0, 1].
        bootstrap: how the interval is found.

    Returns:
        Both ends; None with fewer than two prompts.

    Examples:
        >>> win_rate_interval([1.0, 1.0, 0.0, 0.5], Bootstrap(confidence=0.9, resamples=500))
        (0.25, 0.875)
    """
    values = np.asarray(credits, dtype=np.float64)
    if values.size < 2:
        return None
    draws = np.concatenate([counts @ values / values.size for counts in _counts(values.size, bootstrap)])
    low, high = percentile_interval(draws, (1 - bootstrap.confidence) / 2)
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthAdjusted:
    """A win rate at equal length, by a model of our own (`formula`); not AlpacaEval's length-controlled one.

    Attributes:
        win_rate: sigmoid(a).
        interval: its bootstrap interval; None with fewer than two prompts.
        slope: b; above 0 where the judge prefers the longer answer.
        scale: standard deviation of the differences of lengths, characters.
        formula: the model in words.
    """

    win_rate: float
    interval: Interval | None
    slope: float
    scale: float
    formula: str = FORMULA


def length_adjusted_win_rate(
    credits: Sequence[float],
    model_lengths: Sequence[int],
    baseline_lengths: Sequence[int],
    bootstrap: Bootstrap,
) -> LengthAdjusted:
    """The win rate that a logistic regression on the difference of lengths gives at no difference.

    The pseudo-tie and the penalty, each of the weight of one prompt, make the minimum unique and finite whatever the
    verdicts, in every resample too. With equal lengths throughout it is the mean of the credits and one tie.

    Args:
        credits: preference for the model per prompt, in [0, 1].
        model_lengths: characters of its answers.
        baseline_lengths: characters of the other answers.
        bootstrap: how the interval is found, over prompts; the scale stays that of the whole sample.

    Examples:
        >>> length_adjusted_win_rate([1, 1, 0], [5, 5, 5], [5, 5, 5], Bootstrap()).win_rate
        0.625
    """
    y = np.asarray(credits, dtype=np.float64)
    difference = np.asarray(model_lengths, dtype=np.float64) - np.asarray(baseline_lengths, dtype=np.float64)
    scale = float(difference.std())
    x = np.tanh(difference / scale) if scale > 0 else np.zeros_like(difference)
    a, b = _fit(x, y, np.ones((1, y.size)))
    interval = None
    if y.size >= 2:
        draws = np.concatenate([_fit(x, y, counts)[0] for counts in _counts(y.size, bootstrap)])
        low, high = percentile_interval(_sigmoid(draws), (1 - bootstrap.confidence) / 2)
        interval = (float(low), float(high))
    return LengthAdjusted(win_rate=float(_sigmoid(a)[0]), interval=interval, slope=float(b[0]), scale=scale)


def _fit(x: FloatArray, y: FloatArray, weights: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    """Newton's method with halved steps, for every row of weights at once; returns a and b, shape (rows,)."""
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    value = _objective(a, b, x, y, weights)
    for _ in range(_STEPS):
        p, p0 = _sigmoid(a[:, None] + b[:, None] * x), _sigmoid(a)
        residual, curvature = weights * (p - y), weights * p * (1 - p)
        ga = residual.sum(1) + _PSEUDO * (p0 - 0.5)
        gb = residual @ x + _PENALTY * b
        haa = curvature.sum(1) + _PSEUDO * p0 * (1 - p0)
        hab, hbb = curvature @ x, curvature @ (x * x) + _PENALTY
        determinant = np.maximum(haa * hbb - hab * hab, 1e-300)
        da, db = (hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant
        if max(np.abs(da).max(), np.abs(db).max()) < 1e-9:
            break
        step = np.ones(len(weights))
        for _ in range(30):
            tried = _objective(a - step * da, b - step * db, x, y, weights)
            worse = tried > value + _ROUNDING * np.abs(value)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        a, b = a - step * da, b - step * db
        value = _objective(a, b, x, y, weights)
    return a, b


def _objective(
    a: FloatArray, b: FloatArray, x: FloatArray, y: FloatArray, weights: NDArray[np.float64]
) -> FloatArray:
    """Cross-entropy of the preferences with the pseudo-tie and the penalty, shape (rows,)."""
    z = a[:, None] + b[:, None] * x
    # -y log p - (1 - y) log(1 - p) = log(1 + e^z) - y z
    whole = (weights * (np.logaddexp(0.0, z) - y * z)).sum(1)
    return whole + _PSEUDO * (np.logaddexp(0.0, a) - a / 2) + _PENALTY * b * b / 2


def _sigmoid(z: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0.0, -z))


def _counts(n: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.float64]]:
    """How often each prompt was drawn, in blocks of resamples, shape (block, n)."""
    generator = np.random.default_rng(bootstrap.seed)
    block = max(1, _BLOCK // n // 8)
    for start in range(0, bootstrap.resamples, block):
        rows = min(block, bootstrap.resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
