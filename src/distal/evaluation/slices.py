"""Dominance within parts of the data, with a correction for asking many times.

Each slice of at least 20 independent samples is tested by itself, against the null that its violation ratio is at
least the threshold. Its p-value is the larger of that of the asymptotic test and of the least level at which its
bootstrap interval lies below the threshold: a correction for many slices asks for p-values far in the tail, where the
normal law is wrong for small slices. The p-values of all slices of all attributes are corrected together by Holm's
step-down method, whatever the slices have to do with each other. The probability that any slice is wrongly said to
dominate is then about the level, not at most: how near, `benchmarks/slices.py` finds by simulation.

So that the corrected level can be reached at all, many slices are given more resamples than the whole. The intervals
that are shown are not corrected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distal.errors import DataError
from distal.evaluation.comparing import Settings, compare
from distal.evaluation.intervals import fewest_resamples, interval_p_value
from distal.evaluation.parts import Slice, Slices
from distal.evaluation.statistics import FloatArray
from distal.evaluation.verdict import FEWEST_SAMPLES

__all__ = ["Attributes", "binned", "holm", "sliced"]

Attributes: TypeAlias = Mapping[str, ArrayLike | tuple[ArrayLike, ArrayLike]]
"""Attribute -> one label per pair, or a tuple of one label per preferred and one per other response."""

MOST_VALUES = 8
"""Numbers with more different values than this are cut into bins, where no number of bins is asked for."""

_BINS = 4

_ROUNDING = 1e-12

_LEADING_NUMBER = re.compile(r"[-+]?(inf|\d+\.?\d*(e[-+]?\d+)?)(?=-|$)")
"""What a bin begins with; a number alone is one as well."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: reject where they are at most the level of the whole family.

    Args:
        p_values: of the single tests.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def binned(values: ArrayLike, bins: int | None = None) -> NDArray[np.str_]:
    """Labels of values: numbers of many different values become bins of nearly equal counts, named by their ends.

    NaN is a value of its own, `nan`.

    Args:
        values: numbers or words, shape (n,).
        bins: how many; numbers of no more values than that are not cut. None: 4, of more than 8 values.

    Examples:
        >>> binned([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], bins=2).tolist()[4:6]
        ['1-5', '6-10']
        >>> binned(["en", "de"]).tolist()
        ['en', 'de']
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        return array.astype(str)
    known = ~np.isnan(array)
    ordered = np.sort(array[known])
    if np.unique(ordered).size <= (MOST_VALUES if bins is None else bins):
        return array.astype(str)
    bins = bins or _BINS
    inner = ordered[[-(-k * ordered.size // bins) - 1 for k in range(1, bins)]]
    # Equal edges, as many ties make them, are one edge.
    number = np.searchsorted(np.unique(inner), array, side="left")
    filled = np.unique(number[known]).tolist()
    ends = [(part.min().item(), part.max().item()) for part in (array[known & (number == k)] for k in filled)]
    names = dict(zip(filled, _names(ends), strict=True))
    return np.array([names[k] if given else "nan" for k, given in zip(number.tolist(), known, strict=True)])


def _names(ends: Sequence[tuple[float, float]]) -> list[str]:
    """A name for each bin, with as many digits as tell all ends apart; whole numbers have all of theirs."""
    if isinstance(ends[0][0], int):
        return [f"{low}-{high}" for low, high in ends]
    values = {end for both in ends for end in both}
    # 17 digits tell any two floating-point numbers apart.
    digits = next((d for d in range(6, 17) if len({f"{end:.{d}g}" for end in values}) == len(values)), 17)
    return [f"{low:.{digits}g}-{high:.{digits}g}" for low, high in ends]


def sliced(u: FloatArray, v: FloatArray, attributes: Attributes, settings: Settings) -> Slices:
    """Compare both laws within every slice.

    Args:
        u: preferred rewards, shape (n,).
        v: other rewards, shape (m,).
        attributes: what to cut by.
        settings: what is asked; the second order is left out.

    Raises:
        DataError: labels that do not fit the rewards.
    """
    parts: list[_Part] = []
    for name, labels in attributes.items():
        u_labels, v_labels = _labels(name, labels, u.size, v.size, paired=settings.paired)
        for value in _in_order(np.concatenate([u_labels, v_labels])):
            parts.append(_part(u, v, u_labels == value, v_labels == value, name, value, settings))
    large = sum(part.blank.samples >= FEWEST_SAMPLES for part in parts)
    needed = fewest_resamples(settings.confidence, max(1, large))
    settings = replace(settings, resamples=max(settings.resamples, needed))
    found = [_tested(part, settings) for part in parts]
    tested = [i for i, part in enumerate(found) if part.p_value is not None]
    level = round(1 - settings.confidence, 12)
    adjusted = holm([part.p_value for part in found if part.p_value is not None])
    for i, p_value in zip(tested, adjusted, strict=True):
        found[i] = replace(found[i], p_adjusted=p_value, dominates=p_value <= level + _ROUNDING)
    return Slices(
        slices=tuple(found), correction="holm", level=level, tested=len(tested), threshold=settings.threshold
    )


def _labels(
    name: str, labels: ArrayLike | tuple[ArrayLike, ArrayLike], n: int, m: int, *, paired: bool
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Labels of both sides as words."""
    sides = (labels, labels) if paired else labels
    if not isinstance(sides, tuple) or len(sides) != 2:
        raise DataError(f"attribute {name}: give a tuple of labels, of preferred and of other responses")
    one, two = (np.asarray(side).astype(str) for side in sides)
    if one.shape != (n,) or two.shape != (m,):
        raise DataError(
            f"attribute {name}: there must be one label per response, {n} and {m}, got {one.shape} and {two.shape}"
        )
    return one, two


def _in_order(labels: NDArray[np.str_]) -> list[str]:
    """Different labels: bins and numbers by their beginning, words by the alphabet."""

    def key(label: str) -> tuple[int, float, str]:
        start = _LEADING_NUMBER.match(label)
        return (1, 0.0, label) if start is None else (0, float(start[0]), label)

    return sorted(np.unique(labels).tolist(), key=key)


@dataclass(frozen=True, slots=True)
class _Part:
    """A slice before its test, with its rewards and their labels."""

    blank: Slice
    u: FloatArray
    v: FloatArray
    labels: object


def _part(
    u: FloatArray,
    v: FloatArray,
    on_u: NDArray[np.bool_],
    on_v: NDArray[np.bool_],
    attribute: str,
    value: str,
    settings: Settings,
) -> _Part:
    """The rows of one slice."""
    labels = settings.labels
    if isinstance(labels, tuple):
        labels = tuple(np.asarray(side)[mask] for side, mask in zip(labels, (on_u, on_v), strict=True))
    elif labels is not None:
        labels = np.asarray(labels)[on_u]
    part_u, part_v = u[on_u], v[on_v]
    samples = _independent(part_u, part_v, labels)
    gap = float(part_u.mean() - part_v.mean()) if min(part_u.size, part_v.size) else None
    blank = Slice(
        attribute=attribute,
        value=value,
        n_preferred=part_u.size,
        n_other=part_v.size,
        samples=samples,
        status="too_small",
        mean_gap=gap,
    )
    return _Part(blank, part_u, part_v, labels)


def _tested(part: _Part, settings: Settings) -> Slice:
    """The slice, tested if it is large enough."""
    if part.blank.samples < FEWEST_SAMPLES:
        return part.blank
    compared = compare(part.u, part.v, replace(settings, order=1, labels=part.labels))
    fields, test = compared.fields, compared.fields["test"]
    of_interval = interval_p_value(
        compared.seen, compared.draws, settings.threshold, independent=fields["samples"]
    )
    return replace(
        part.blank,
        status="undefined" if test is None else "tested",
        violation_ratio=fields["violation_ratio"],
        violation_ratio_ci=fields["violation_ratio_ci"],
        mean_gap_ci=fields["mean_gap_ci"],
        p_value=None if test is None else max(test.p_value, of_interval),
    )


def _independent(u: FloatArray, v: FloatArray, labels: object) -> int:
    """Independent samples on the smaller side."""
    if labels is None:
        return min(u.size, v.size)
    sides = labels if isinstance(labels, tuple) else (labels,)
    return min(int(np.unique(np.asarray(side)).size) for side in sides)
