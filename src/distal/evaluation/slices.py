"""Dominance within parts of the data, with a correction for asking many times.

Each slice of at least 20 independent samples is tested by itself, against the null that its violation ratio is at
least the threshold. The p-values of all slices of all attributes are corrected together by Holm's step-down method:
with level 0.05 the probability that any slice is wrongly said to dominate is at most 5 %, whatever the slices have
to do with each other. Intervals are not corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distal.errors import DataError
from distal.evaluation.comparing import Settings, compare
from distal.evaluation.parts import Slice, Slices
from distal.evaluation.statistics import FloatArray
from distal.evaluation.verdict import FEWEST_SAMPLES

__all__ = ["Attributes", "binned", "holm", "sliced"]

Attributes: TypeAlias = Mapping[str, ArrayLike | tuple[ArrayLike, ArrayLike]]
"""Attribute -> one label per pair, or a tuple of one label per preferred and one per other response."""

MOST_VALUES = 8
"""Numbers with more different values than this are cut into bins."""

_BINS = 4


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: reject where they are at most the level of the whole family.

    Args:
        p_values: of the single tests.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def binned(values: ArrayLike, bins: int = _BINS) -> NDArray[np.str_]:
    """Labels of values: numbers of many different values become bins of nearly equal counts, named by their ends.

    Args:
        values: numbers or words, shape (n,).
        bins: how many, where they are cut.

    Example:
        >>> binned([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], bins=2).tolist()[4:6]
        ['1-5', '6-10']
        >>> binned(["en", "de"]).tolist()
        ['en', 'de']
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf" or np.unique(array).size <= MOST_VALUES and bins >= _BINS:
        return array.astype(str)
    inner = np.quantile(array, np.arange(1, bins) / bins, method="inverted_cdf")
    # Equal edges, as many ties make them, are one edge.
    number = np.searchsorted(np.unique(inner), array, side="left")
    names = {
        k: f"{array[number == k].min():g}-{array[number == k].max():g}" for k in np.unique(number).tolist()
    }
    return np.array([names[k] for k in number.tolist()])


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
    found: list[Slice] = []
    for name, labels in attributes.items():
        u_labels, v_labels = _labels(name, labels, u.size, v.size, paired=settings.paired)
        for value in _in_order(np.concatenate([u_labels, v_labels])):
            found.append(_slice(u, v, u_labels == value, v_labels == value, name, value, settings))
    tested = [i for i, part in enumerate(found) if part.p_value is not None]
    level = 1 - settings.confidence
    adjusted = holm([part.p_value for part in found if part.p_value is not None])
    for i, p_value in zip(tested, adjusted, strict=True):
        found[i] = replace(found[i], p_adjusted=p_value, dominates=p_value <= level)
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
        start = label[0] + label[1:].split("-")[0] if label else ""
        try:
            return (0, float(start), label)
        except ValueError:
            return (1, 0.0, label)

    return sorted(np.unique(labels).tolist(), key=key)


def _slice(
    u: FloatArray,
    v: FloatArray,
    on_u: NDArray[np.bool_],
    on_v: NDArray[np.bool_],
    attribute: str,
    value: str,
    settings: Settings,
) -> Slice:
    """One slice, tested if it is large enough."""
    labels = settings.labels
    if isinstance(labels, tuple):
        labels = tuple(np.asarray(side)[mask] for side, mask in zip(labels, (on_u, on_v), strict=True))
    elif labels is not None:
        labels = np.asarray(labels)[on_u]
    part_u, part_v = u[on_u], v[on_v]
    samples = _independent(part_u, part_v, labels)
    gap = float(part_u.mean() - part_v.mean()) if min(part_u.size, part_v.size) else None
    part = Slice(
        attribute=attribute,
        value=value,
        n_preferred=part_u.size,
        n_other=part_v.size,
        samples=samples,
        status="too_small",
        mean_gap=gap,
    )
    if samples < FEWEST_SAMPLES:
        return part
    fields = compare(part_u, part_v, replace(settings, order=1, labels=labels)).fields
    test = fields["test"]
    return replace(
        part,
        status="undefined" if test is None else "tested",
        violation_ratio=fields["violation_ratio"],
        violation_ratio_ci=fields["violation_ratio_ci"],
        mean_gap_ci=fields["mean_gap_ci"],
        p_value=None if test is None else test.p_value,
    )


def _independent(u: FloatArray, v: FloatArray, labels: object) -> int:
    """Independent samples on the smaller side."""
    if labels is None:
        return min(u.size, v.size)
    sides = labels if isinstance(labels, tuple) else (labels,)
    return min(int(np.unique(np.asarray(side)).size) for side in sides)
