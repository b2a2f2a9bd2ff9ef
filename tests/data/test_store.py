"""Rows on disk: what goes in comes out, across batches and processes."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.data.store import RowBatch, RowStore, RowWriter

ROW = st.tuples(
    st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=5),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
)


def write(batches: list[list[tuple[list[int], bool, str]]]) -> RowStore:
    with RowWriter() as writer:
        for rows in batches:
            batch = RowBatch()
            for ids, desirable, text in rows:
                batch.tokens += ids
                batch.lengths.append(len(ids))
                batch.prompt_lengths.append(len(ids) - 1)
                batch.desirable.append(desirable)
                batch.source_rows.append(len(text))
                batch.prompts.append(text)
                batch.completions.append(text + "!")
            writer.append(batch.to_arrow())
        return writer.finish()


@given(batches=st.lists(st.lists(ROW, max_size=3), max_size=4))
def test_what_goes_in_comes_out(batches: list[list[tuple[list[int], bool, str]]]) -> None:
    store = write(batches)
    rows = [row for batch in batches for row in batch]
    for copy in (store, pickle.loads(pickle.dumps(store))):
        assert len(copy) == len(rows)
        for number, (ids, desirable, text) in enumerate(rows):
            assert copy.tokens(number).tolist() == ids
            assert bool(copy.desirable[number]) is desirable
            assert (copy.lengths[number], copy.prompt_lengths[number]) == (len(ids), len(ids) - 1)
            assert (copy.prompt(number), copy.completion(number)) == (text, text + "!")
            assert copy.source_rows[number] == len(text)


def test_a_prompt_is_kept_once_per_pair() -> None:
    with RowWriter() as writer:
        writer.append(
            RowBatch([1, 2, 1, 3], [2, 2], [1, 1], [True, False], [0, 0], ["p", None], ["c", "r"]).to_arrow()
        )
        store = writer.finish()
    assert [store.prompt(0), store.prompt(1)] == ["p", "p"]


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = write([[([1, 2], True, "a")]])
    assert list(tmp_path.iterdir()) == []
    assert store.tokens(0).tolist() == [1, 2]

    def fail() -> None:
        with RowWriter():
            assert len(list(tmp_path.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
