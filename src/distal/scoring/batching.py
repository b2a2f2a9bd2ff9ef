"""Cutting rows into forward passes: memory and speed only, never the objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["cut_by_count", "cut_by_tokens", "pack_by_tokens"]


def cut_by_tokens(lengths: Sequence[int], budget: int, rows_per_unit: int = 1) -> list[list[int]]:
    """Cut units into groups whose padded size stays within a token budget.

    Units are taken from the longest to the shortest, so that a group pads little and the largest memory is met
    first. A unit longer than the budget gets a group of its own.

    Args:
        lengths: tokens of the longest row of each unit.
        budget: tokens, padding included, that one group may hold.
        rows_per_unit: rows that each unit brings (2 for a pair).

    Returns:
        Groups of unit indices; together every index exactly once. Depends on nothing but the arguments.

    Examples:
        >>> cut_by_tokens([3, 10, 4], budget=10)
        [[1], [2, 0]]
    """
    _check_budget(budget)
    groups: list[list[int]] = []
    longest = 0
    for index in _longest_first(lengths):
        if groups and longest * rows_per_unit * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def pack_by_tokens(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Pack units into groups whose sizes add up to no more than a token budget: first fit, decreasing.

    Units are taken from the largest to the smallest, and each goes into the first group that has room for it. That
    takes at most 11/9 of the fewest groups possible, and one more (D. S. Johnson, 1973). A unit larger than the
    budget gets a group of its own.

    Args:
        sizes: tokens of each unit.
        budget: tokens that one group may hold.

    Returns:
        Groups of unit indices, the fullest first; together every index exactly once. Depends on nothing but the
        arguments.

    Examples:
        >>> pack_by_tokens([3, 10, 4, 6], budget=10)
        [[1], [3, 2], [0]]
    """
    _check_budget(budget)
    groups: list[list[int]] = []
    room = np.empty(len(sizes), dtype=np.int64)
    for index in _longest_first(sizes):
        fits = room[: len(groups)] >= sizes[index]
        first = int(fits.argmax()) if fits.any() else len(groups)
        if first == len(groups):
            groups.append([])
            room[first] = budget
        groups[first].append(index)
        room[first] -= sizes[index]
    used = [sum(sizes[i] for i in group) for group in groups]
    return [groups[k] for k in _longest_first(used)]


def cut_by_count(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Cut units into groups of `count` (the last may be smaller), similar lengths together.

    Examples:
        >>> cut_by_count([3, 10, 4], count=2)
        [[1, 2], [0]]
    """
    if count < 1:
        raise ValueError(f"a group must hold at least 1 unit, got {count}")
    order = _longest_first(lengths)
    return [order[start : start + count] for start in range(0, len(order), count)]


def _check_budget(budget: int) -> None:
    if budget < 1:
        raise ValueError(f"the token budget must be at least 1, got {budget}")


def _longest_first(lengths: Sequence[int]) -> list[int]:
    # A stable sort: equal lengths keep the order of the batch, on every machine.
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
