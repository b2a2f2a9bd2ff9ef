"""From grades to preferences, on arrays: which answers are liked, which pairs are made, how much each counts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from distal.errors import ConfigError

__all__ = [
    "GRADE_METHODS",
    "GradeMethod",
    "GradeTies",
    "PairedAnswers",
    "liked_answers",
    "paired_answers",
    "threshold_of",
]

GradeMethod = Literal["threshold", "best_worst", "best_random", "all_pairs"]
"""How preferences are made of grades."""

GradeTies = Literal["drop", "liked", "disliked"]
"""What an answer is whose grade equals the threshold."""

GRADE_METHODS: tuple[str, ...] = get_args(GradeMethod)

Grades = NDArray[np.float64]
Groups = NDArray[np.int64]
Indices = NDArray[np.int64]

_BLOCK = 2**20
"""Pairs that are looked at at a time."""


def threshold_of(grades: Grades, groups: Groups, threshold: str | float) -> Grades:
    """The grade above which each answer is liked, shape (n,).

    Args:
        grades: of all answers, shape (n,).
        groups: number of each answer's prompt, 0 to the number of prompts - 1, shape (n,).
        threshold: "median" of all grades, "prompt_median" of those to the same prompt, or a grade.

    Raises:
        ConfigError: another threshold.

    Examples:
        >>> threshold_of(np.array([1.0, 2.0, 5.0, 9.0]), np.array([0, 0, 1, 1]), "prompt_median").tolist()
        [1.5, 1.5, 7.0, 7.0]
    """
    if threshold == "median":
        return np.full(len(grades), np.median(grades) if len(grades) else np.nan)
    if threshold == "prompt_median":
        result = np.empty(len(grades))
        for members in _members(groups):
            result[members] = np.median(grades[members])
        return result
    if isinstance(threshold, (str, bool)) or not np.isfinite(threshold):
        raise ConfigError(f"grade_threshold={threshold!r}: expected median, prompt_median or a number")
    return np.full(len(grades), float(threshold))


def liked_answers(grades: Grades, thresholds: Grades, ties: GradeTies = "drop") -> NDArray[np.int8]:
    """1 for each liked answer (above its threshold), 0 for each disliked one, -1 for those left out, shape (n,).

    Args:
        grades: shape (n,).
        thresholds: shape (n,).
        ties: what an answer at its threshold is.

    Source:
        arXiv 2406.05882 thresholds the sum of attributes at the median and leaves ties open.

    Examples:
        >>> liked_answers(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0)).tolist()
        [0, -1, 1]
    """
    at = {"drop": -1, "liked": 1, "disliked": 0}[ties]
    return np.where(grades > thresholds, 1, np.where(grades < thresholds, 0, at)).astype(np.int8)


@dataclass(frozen=True, slots=True)
class PairedAnswers:
    """Pairs of answers by number.

    Attributes:
        better: shape (k,).
        worse: shape (k,).
        no_partner: answers alone with their prompt.
        no_difference: answers to prompts whose grades differ too little for any pair.
        not_paired: the other answers that are in no pair.
    """

    better: Indices
    worse: Indices
    no_partner: Indices
    no_difference: Indices
    not_paired: Indices


def paired_answers(
    grades: Grades, groups: Groups, method: GradeMethod, *, margin: float = 0.0, seed: int = 0
) -> PairedAnswers:
    """Pair answers to the same prompt by their grades.

    A pair's grades differ, and by no less than the margin. Of equal grades the first answer stands for all.

    Args:
        grades: of all answers, shape (n,).
        groups: number of each answer's prompt, shape (n,).
        method: "best_worst": one pair per prompt; "best_random": the best answer with one drawn from all that are
            worse by the margin; "all_pairs": every pair.
        margin: least difference of grades.
        seed: of the draws; each prompt has a generator of its own, seeded by its number.

    Examples:
        >>> pairs = paired_answers(np.array([3.0, 1.0, 2.0]), np.zeros(3, int), "all_pairs", margin=1.5)
        >>> list(zip(pairs.better.tolist(), pairs.worse.tolist())), pairs.not_paired.tolist()
        ([(0, 1)], [2])
    """
    better, worse = array("q"), array("q")
    fates: dict[str, list[int]] = {"no_partner": [], "no_difference": [], "not_paired": []}
    for number, members in enumerate(_members(groups)):
        if len(members) == 1:
            fates["no_partner"].append(int(members[0]))
            continue
        unused = np.ones(len(members), dtype=bool)
        for good, bad in _METHODS[method](grades[members], margin, (seed, number)):
            better.frombytes(members[good].tobytes())
            worse.frombytes(members[bad].tobytes())
            unused[good] = unused[bad] = False
        fates["no_difference" if unused.all() else "not_paired"] += members[unused].tolist()
    return PairedAnswers(
        np.array(better, dtype=np.int64),
        np.array(worse, dtype=np.int64),
        **{fate: np.array(sorted(answers), dtype=np.int64) for fate, answers in fates.items()},
    )


def _enough(difference: Grades, margin: float) -> NDArray[np.bool_]:
    return (difference > 0) & (difference >= margin)


Places = Iterator[tuple[Indices, Indices]]
"""Places of the better answers and of the worse ones, some at a time."""


def _best_worst(grades: Grades, margin: float, seed: tuple[int, int]) -> Places:
    best, worst = np.argmax(grades), np.argmin(grades)
    if _enough(grades[best] - grades[worst], margin):
        yield np.array([best]), np.array([worst])


def _best_random(grades: Grades, margin: float, seed: tuple[int, int]) -> Places:
    best = np.argmax(grades)
    others = np.flatnonzero(_enough(grades[best] - grades, margin))
    if len(others):
        yield np.array([best]), np.array([np.random.default_rng(seed).choice(others)])


def _all_pairs(grades: Grades, margin: float, seed: tuple[int, int]) -> Places:
    step = max(1, _BLOCK // len(grades))
    for start in range(0, len(grades), step):
        good, bad = np.nonzero(_enough(grades[start : start + step, None] - grades[None, :], margin))
        yield good + start, bad


_METHODS: dict[str, Callable[[Grades, float, tuple[int, int]], Places]] = {
    "best_worst": _best_worst,
    "best_random": _best_random,
    "all_pairs": _all_pairs,
}


def _members(groups: Groups) -> list[Indices]:
    """The answers to each prompt, in order."""
    if not len(groups):
        return []
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
