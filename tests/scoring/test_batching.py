"""Cutting into groups: a partition within the budget, deterministic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.scoring import cut_by_count, cut_by_tokens

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@given(LENGTHS, st.integers(1, 120), st.sampled_from([1, 2]))
def test_token_groups_partition_the_units_within_the_budget(lengths, budget, rows_per_unit):
    groups = cut_by_tokens(lengths, budget, rows_per_unit)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        padded = max(lengths[i] for i in group) * len(group) * rows_per_unit
        assert padded <= budget or len(group) == 1


@given(LENGTHS, st.integers(1, 9))
def test_count_groups_partition_the_units(lengths, count):
    groups = cut_by_count(lengths, count)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) == count for group in groups[:-1])


def test_similar_lengths_share_a_group():
    """By hand: six rows of 8 or 1 tokens, budget 16: the long ones in pairs, the short ones together."""
    assert cut_by_tokens([8, 1, 8, 1, 8, 1], budget=16) == [[0, 2], [4, 1], [3, 5]]


@pytest.mark.parametrize("cut", [cut_by_tokens, cut_by_count])
def test_a_budget_below_one_is_refused(cut):
    with pytest.raises(ValueError, match="at least 1"):
        cut([1], 0)
