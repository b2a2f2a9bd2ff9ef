"""Statistics of two models on the same documents."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = [
    "holm",
    "mean_and_stderr",
    "normal_test",
    "paired_difference",
    "paired_test",
    "pooled_stderr",
    "unweighted_stderr",
]

_BINARY = frozenset((0.0, 1.0))


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error `s / sqrt(n)`, s with n - 1 in the denominator.

    Args:
        values: one value for each document, at least one.

    Returns:
        The mean, and its standard error, None for a single value.

    Examples:
        >>> mean_and_stderr([0.0, 1.0])
        (0.5, 0.5)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the documents' differences, after minus before, and its standard error.

    Both models answer the same documents, and what is hard for one is mostly hard for the other, so that the standard
    error of the difference is smaller than the two separate ones suggest.

    Args:
        before: value of each document, (n,).
        after: value of the same documents in the same order, (n,).

    Returns:
        Mean difference, and its standard error, None for a single document.

    Examples:
        >>> paired_difference([0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
        (0.25, 0.25)
    """
    return mean_and_stderr([b - a for a, b in zip(before, after, strict=True)])


def paired_test(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Two-sided p-value of the hypothesis that both models are equally good on these documents.

    Where every value is 0 or 1 this is the exact test of McNemar: of the documents on which the models differ, each is
    won by either with probability 1/2 (McNemar 1947). Otherwise it is the normal approximation for the mean
    difference d, `erfc(|d| / se / sqrt 2)`.

    Args:
        before: value of each document, (n,).
        after: value of the same documents in the same order, (n,).

    Returns:
        The p-value; None where the normal approximation has no standard error above zero to go by.

    Examples:
        >>> paired_test([0.0] * 5, [1.0] * 5)
        0.0625
        >>> paired_test([0.5, 0.5], [0.5, 0.5])
        1.0
    """
    if _BINARY.issuperset(before) and _BINARY.issuperset(after):
        gained = sum(a < b for a, b in zip(before, after, strict=True))
        lost = sum(a > b for a, b in zip(before, after, strict=True))
        return _sign_test(gained, lost)
    difference, stderr = paired_difference(before, after)
    return normal_test(difference, stderr)


def normal_test(difference: float, stderr: float | None) -> float | None:
    """Two-sided p-value of a mean difference; 1 for none at all, None without a standard error above zero.

    Examples:
        >>> round(normal_test(1.959964, 1.0), 6)
        0.05
    """
    if difference == 0.0:
        return 1.0
    if not stderr:
        return None
    return math.erfc(abs(difference) / stderr / math.sqrt(2.0))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number, so that the chance of any false alarm stays below the level (Holm 1979).

    With the k-th smallest of m p-values p_(k): `max_{j <= k} min(1, (m - j + 1) p_(j))`, in the order given. Valid
    however the tests depend on each other. What is undefined stays so and does not count.

    Examples:
        >>> holm([0.01, 0.04, None])
        [0.02, 0.04, None]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = highest
    return adjusted


def pooled_stderr(stderrs: Sequence[float | None], sizes: Sequence[int]) -> float | None:
    """Standard error of the mean over the documents of several tasks, as lm-evaluation-harness pools it.

    `sqrt(sum_i (n_i - 1) n_i se_i^2 / (N - k) / N)` for k tasks of n_i documents, N in all.

    Examples:
        >>> pooled_stderr([0.5, 0.5], [2, 2])
        0.3535...
    """
    total, tasks = sum(sizes), len(sizes)
    if total == tasks or any(stderr is None for stderr in stderrs):
        return None
    squares = math.fsum((n - 1) * n * (se or 0.0) ** 2 for se, n in zip(stderrs, sizes, strict=True))
    return math.sqrt(squares / (total - tasks) / total)


def unweighted_stderr(stderrs: Sequence[float | None]) -> float | None:
    """Standard error of the mean of the tasks' means: `sqrt(sum_i se_i^2) / k`.

    Examples:
        >>> unweighted_stderr([3.0, 4.0])
        2.5
    """
    if any(stderr is None for stderr in stderrs):
        return None
    return math.sqrt(math.fsum((stderr or 0.0) ** 2 for stderr in stderrs)) / len(stderrs)


def _sign_test(gained: int, lost: int) -> float:
    """Exact two-sided test that gains and losses are equally likely."""
    n, fewer = gained + lost, min(gained, lost)
    ways = tail = 1  # n over k, and its sum; whole numbers, so that nothing underflows
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)
