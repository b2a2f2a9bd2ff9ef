"""Readers meet values of any shape: each row is read or refused with a reason, and nothing else happens."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from distal.data import FORMATS
from distal.data.reasons import DROPPED, RowProblem
from distal.data.schemas import Answer, Preference
from tests.data.test_formats import CASES

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(10**18, 10**400),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["user", "assistant", "N/A", "tie", "\ud800", "[]", "{", "\n\nHuman: a\n\nAssistant:"]),
)
KEYS = st.sampled_from(
    ["role", "content", "from", "value", "text", "replies", "Rating", "rank", "completion", "x"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a row, as the keys that lead there."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def check(name: str, row: Any) -> None:
    made: list[Any] = []
    try:
        made += FORMATS[name].read(row)
    except RowProblem as problem:
        made.append(problem)
    for item in made:
        assert isinstance(item, (Preference, Answer, RowProblem))
        if isinstance(item, RowProblem):
            assert item.reason in DROPPED
            str(item).encode("utf-8")


@settings(max_examples=150)
@given(st.data())
def test_any_values(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FORMATS)))
    columns = sorted(FORMATS[name].columns)
    check(name, data.draw(st.dictionaries(st.sampled_from(columns), VALUES, max_size=len(columns))))


@settings(max_examples=150)
@given(st.sampled_from(CASES), st.data())
def test_one_wrong_value_in_a_good_row(case: tuple[str, dict[str, Any], Any], data: st.DataObject) -> None:
    name, good, _ = case
    row = copy.deepcopy(good)
    path = data.draw(st.sampled_from(places(row)))
    holder: Any = row
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(VALUES)
    elif isinstance(holder, dict):
        del holder[path[-1]]
    check(name, row)
