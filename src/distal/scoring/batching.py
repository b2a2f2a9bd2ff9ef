"""Cutting rows into forward passes: memory and speed only, never the objective."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cut_by_count", "cut_by_tokens"]


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

    Example:
        >>> cut_by_tokens([3, 10, 4], budget=10)
        [[1], [2, 0]]
    """
    if budget < 1:
        raise ValueError(f"the token budget must be at least 1, got {budget}")
    groups: list[list[int]] = []
    longest = 0
    for index in _longest_first(lengths):
        if groups and longest * rows_per_unit * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def cut_by_count(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Cut units into groups of `count` (the last may be smaller), similar lengths together.

    Example:
        >>> cut_by_count([3, 10, 4], count=2)
        [[1, 2], [0]]
    """
    if count < 1:
        raise ValueError(f"a group must hold at least 1 unit, got {count}")
    order = _longest_first(lengths)
    return [order[start : start + count] for start in range(0, len(order), count)]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    # A stable sort: equal lengths keep the order of the batch, on every machine.
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
