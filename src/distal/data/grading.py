"""Preferences made of graded rows, in two passes over the source: grades first, then texts, a few at a time."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from distal.data.formats import Format
from distal.data.grades import (
    GRADE_METHODS,
    GradeMethod,
    GradeTies,
    PairedAnswers,
    liked_answers,
    paired_answers,
    threshold_of,
)
from distal.data.places import read_placed
from distal.data.reasons import RowProblem
from distal.data.schemas import Answer, Preference, Text, checked
from distal.data.values import listed
from distal.errors import ConfigError, DataError
from distal.types import DataKind

__all__ = ["GradeOptions", "Numbered", "every_answer", "graded_preferences", "median_grade"]

Numbered = tuple[int, "Preference | RowProblem"]
"""Source row, and what it yields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeOptions:
    """How preferences are made of grades.

    Attributes:
        method: "threshold" gives unpaired data; "best_worst", "best_random" and "all_pairs" give pairs.
        grades: attribute -> weight of the sum; None for the format's own. A negative weight turns an attribute
            round.
        threshold: "median", "prompt_median" or a grade.
        ties: "drop", "liked" or "disliked": answers at the threshold.
        margin: least difference of the grades of a pair.
        weights: whether each preference is weighted by its difference of grades (to the threshold when unpaired),
            divided by the mean of all.
        seed: of "best_random".
        threshold_from: name of the data set whose threshold it is, for the report; empty where it is the user's, or
            that of the data themselves.
    """

    method: GradeMethod = "threshold"
    grades: Mapping[str, float] | None = None
    threshold: str | float = "median"
    ties: GradeTies = "drop"
    margin: float = 0.0
    weights: bool = False
    seed: int = 0
    threshold_from: str = ""

    def __post_init__(self) -> None:
        if self.method not in GRADE_METHODS:
            raise ConfigError(f"from_grades={self.method!r}: expected one of {', '.join(GRADE_METHODS)}")
        if self.ties not in get_args(GradeTies):
            raise ConfigError(f"grade_ties={self.ties!r}: expected one of {', '.join(get_args(GradeTies))}")
        if not (np.isfinite(self.margin) and self.margin >= 0):
            raise ConfigError(f"grade_margin={self.margin!r}: expected a number from 0 on")
        if self.grades is not None and not any(self.grades.values()):
            raise ConfigError("grades: give at least one attribute a weight other than 0")
        threshold_of(np.zeros(0), np.zeros(0, dtype=np.int64), self.threshold)
        idle = {
            "grade_margin": self.method == "threshold" and self.margin != 0,
            "grade_threshold": self.method != "threshold" and self.threshold != "median",
            "grade_ties": self.method != "threshold" and self.ties != "drop",
        }
        for option, has_no_effect in idle.items():
            if has_no_effect:
                raise ConfigError(f"{option} has no effect with from_grades={self.method}; leave it out")
        if self.weights and self.ties != "drop":
            raise ConfigError(
                f"grade_ties={self.ties} with grade_weights: the weight is the distance to the threshold, which is 0 "
                f"for ties; leave one of the two out"
            )

    @property
    def kind(self) -> DataKind:
        """What is made of the grades."""
        return "unpaired" if self.method == "threshold" else "paired"


def graded_preferences(
    rows: Callable[[], Iterable[Mapping[str, object]]], form: Format, options: GradeOptions, name: str
) -> Iterator[Numbered]:
    """Make preferences of graded rows.

    Only the texts of answers that wait for their partners are held; of all others, two numbers each.

    Args:
        rows: opens the source; called twice.
        form: a graded format.
        options: how.
        name: the data set, for messages.

    Yields:
        Source row, and a preference or why there is none; a pair has the row of its better answer. Every answer is
        in a preference or accounted for.

    Raises:
        DataError: no answer has a grade.
    """
    weights = _weights(form, options)
    table = _table(rows(), form, weights, name)
    plan = _Unpaired(table, options) if options.kind == "unpaired" else _Pairs(table, options)
    number = -1
    for source_row, made in _answers(rows(), form):
        if isinstance(made, RowProblem):
            yield source_row, made
        elif _sum(made.grades, weights) is None:
            yield source_row, _no_grade(made.grades, weights)
        else:
            number += 1
            yield from plan.take(number, source_row, made)


def every_answer(rows: Iterable[Mapping[str, object]], form: Format) -> Iterator[Numbered]:
    """Every answer as a liked one, whatever its grade: which prompts are there, before any grades leave some out."""
    for source_row, made in _answers(rows, form):
        if isinstance(made, Answer):
            yield source_row, Preference(made.prompt, (made.completion,), (True,))
        else:
            yield source_row, made


def median_grade(
    rows: Iterable[Mapping[str, object]], form: Format, options: GradeOptions, name: str
) -> float | None:
    """The threshold that data have in common: the median of their grades; None where `options` take no such one.

    Raises:
        DataError: no answer has a grade.
    """
    if options.method != "threshold" or options.threshold != "median":
        return None
    return float(np.median(_table(rows, form, _weights(form, options), name).grades))


def _weights(form: Format, options: GradeOptions) -> dict[str, float]:
    return dict(form.grades if options.grades is None else options.grades)


def _table(
    rows: Iterable[Mapping[str, object]], form: Format, weights: Mapping[str, float], name: str
) -> _Table:
    """The grades of all answers."""
    table, names = _Table(), set[str]()
    for _, made in _answers(rows, form):
        if isinstance(made, Answer):
            names.update(made.grades)
            grade = _sum(made.grades, weights)
            if grade is not None:
                table.add(made.prompt, grade)
    if not len(table.grades):
        raise DataError(
            f"{name}: no answer is graded by {', '.join(weights)}; graded attributes that were found: "
            f"{listed(sorted(names))}; name some of them with grades (--grades)"
        )
    return table


def _answers(rows: Iterable[Mapping[str, object]], form: Format) -> Iterator[tuple[int, Answer | RowProblem]]:
    """Every answer of every row, and every problem."""
    for source_row, row in enumerate(rows):
        try:
            for made in read_placed(form.read, row):
                assert not isinstance(made, Preference), f"format {form.name} is not graded"
                yield source_row, made
        except RowProblem as problem:
            yield source_row, problem


def _sum(grades: Mapping[str, float], weights: Mapping[str, float]) -> float | None:
    """Weighted sum; attributes that are absent count as the weighted mean of the others. None if all are."""
    present = [attribute for attribute, weight in weights.items() if weight and attribute in grades]
    if not present:
        return None
    total = sum(weights[attribute] * grades[attribute] for attribute in present)
    return total * sum(map(abs, weights.values())) / sum(abs(weights[attribute]) for attribute in present)


def _no_grade(found: Mapping[str, float], weights: Mapping[str, float]) -> RowProblem:
    shown = listed(sorted(found))
    return RowProblem("no_grade", f"graded by {shown}, not by {', '.join(weights)}", "grade the answer")


class _Table:
    """What the first pass keeps of each answer: its grade, and the number of its prompt."""

    def __init__(self) -> None:
        self._grades = array("d")
        self._groups = array("q")
        self._numbers: dict[bytes, int] = {}
        self._n_groups = 0

    def add(self, prompt: Text, grade: float) -> None:
        self._grades.append(grade)
        self._groups.append(self._group(prompt))

    def _group(self, prompt: Text) -> int:
        """The number of a prompt; an empty one says nothing of what its answers have in common, and is always new."""
        turns = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
        written = (
            prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False)
        )
        key = hashlib.blake2b(written.strip().encode(), digest_size=12).digest()
        says_something = any(turn.strip() for turn in turns)
        known = self._numbers.get(key) if says_something else None
        if known is not None:
            return known
        self._n_groups += 1
        if says_something:
            self._numbers[key] = self._n_groups - 1
        return self._n_groups - 1

    @property
    def grades(self) -> NDArray[np.float64]:
        return np.array(self._grades, dtype=np.float64)

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.array(self._groups, dtype=np.int64)


class _Unpaired:
    """Liked and disliked answers."""

    def __init__(self, table: _Table, options: GradeOptions) -> None:
        grades = table.grades
        thresholds = threshold_of(grades, table.groups, options.threshold)
        self._grades = grades
        self._labels = liked_answers(grades, thresholds, options.ties)
        distance = np.abs(grades - thresholds)
        self._weights = _relative(distance, self._labels >= 0) if options.weights else None

    def take(self, number: int, source_row: int, answer: Answer) -> Iterator[Numbered]:
        if self._labels[number] < 0:
            grade = f"the grade {self._grades[number]:g} is the threshold"
            yield source_row, RowProblem("grade_at_threshold", grade, "grade_ties says what such answers are")
            return
        weight = None if self._weights is None else float(self._weights[number])
        liked = bool(self._labels[number])
        yield source_row, Preference(answer.prompt, (answer.completion,), (liked,), weight=weight)


@dataclass(slots=True)
class _Waiting:
    """An answer whose pairs are not all made yet."""

    source_row: int
    answer: Answer
    pairs: int


_REMEDIES = {
    "no_partner": "give a second answer to the prompt, or make unpaired data (from_grades=threshold)",
    "no_difference": "lower grade_margin, or leave the row out",
    "not_paired": "from_grades=all_pairs uses more answers",
}


class _Pairs:
    """Pairs, each made as soon as both of its answers have passed by."""

    def __init__(self, table: _Table, options: GradeOptions) -> None:
        grades = table.grades
        pairs = paired_answers(grades, table.groups, options.method, margin=options.margin, seed=options.seed)
        self._pairs = pairs
        difference = grades[pairs.better] - grades[pairs.worse]
        self._weights = (
            _relative(difference, np.ones(len(difference), dtype=bool)) if options.weights else None
        )
        later = np.maximum(pairs.better, pairs.worse)
        self._order = np.argsort(later, kind="stable")
        self._later = later[self._order]
        count = len(grades)
        self._uses = np.bincount(pairs.better, minlength=count) + np.bincount(pairs.worse, minlength=count)
        self._fates = _fates(pairs)
        self._waiting: dict[int, _Waiting] = {}

    def take(self, number: int, source_row: int, answer: Answer) -> Iterator[Numbered]:
        if number in self._fates:
            fate = self._fates[number]
            yield source_row, RowProblem(fate, "the answer is in no pair", _REMEDIES[fate])
            return
        self._waiting[number] = _Waiting(source_row, answer, int(self._uses[number]))
        start, end = np.searchsorted(self._later, [number, number + 1])
        for pair in self._order[start:end]:
            yield self._pair(int(pair))

    def _pair(self, pair: int) -> Numbered:
        better, worse = (int(side[pair]) for side in (self._pairs.better, self._pairs.worse))
        good, bad = self._waiting[better], self._waiting[worse]
        for side, waiting in ((better, good), (worse, bad)):
            waiting.pairs -= 1
            if waiting.pairs == 0:
                del self._waiting[side]
        weight = None if self._weights is None else float(self._weights[pair])
        sides = (good.answer.completion, bad.answer.completion)
        try:
            return good.source_row, checked(
                Preference(good.answer.prompt, sides, (True, False), weight=weight)
            )
        except RowProblem as problem:
            return good.source_row, problem


def _fates(pairs: PairedAnswers) -> dict[int, str]:
    fates = ("no_partner", "no_difference", "not_paired")
    return {int(answer): fate for fate in fates for answer in getattr(pairs, fate)}


def _relative(size: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sizes divided by the mean of those kept."""
    mean = float(size[kept].mean()) if kept.any() else 0.0
    return size / mean if mean > 0 else np.ones(len(size))
