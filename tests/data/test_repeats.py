"""Repeated and contradicting rows, against a count over all pairs of rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distal.data.repeats import Repeats
from distal.data.report import Tally

SIDES = st.sampled_from("abc")
PAIRED = st.tuples(st.sampled_from("pq"), SIDES, SIDES).filter(lambda row: row[1] != row[2])
UNPAIRED = st.tuples(st.sampled_from("pq"), SIDES, st.booleans())


def counts(keys: list[tuple[int, bool]]) -> tuple[int, int]:
    repeats, tally = Repeats(), Tally()
    half = len(keys) // 2
    repeats.add(keys[:half], range(half))
    repeats.add(keys[half:], range(half, len(keys)))
    repeats.note(tally)
    noted = {remark: count.count for remark, count in tally.noted().items()}
    return noted.get("duplicate", 0), noted.get("contradiction", 0)


@given(rows=st.lists(PAIRED, max_size=12))
def test_paired(rows: list[tuple[str, str, str]]) -> None:
    found = counts([Repeats.keys(p, (c, r), (True, False)) for p, c, r in rows])
    assert found == (len(rows) - len(set(rows)), sum((p, r, c) in rows for p, c, r in rows))


@given(rows=st.lists(UNPAIRED, max_size=12))
def test_unpaired(rows: list[tuple[str, str, bool]]) -> None:
    found = counts([Repeats.keys(p, (c,), (label,)) for p, c, label in rows])
    assert found == (len(rows) - len(set(rows)), sum((p, c, not label) in rows for p, c, label in rows))


def test_texts_are_kept_apart() -> None:
    assert Repeats.keys("ab", ("c",), (True,)) != Repeats.keys("a", ("bc",), (True,))
