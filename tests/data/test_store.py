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
    st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=5),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
)


def mask_of(ids: list[int]) -> list[bool] | None:
    """None for some rows, and a mask that leaves one of two completion tokens out for the others."""
    return None if ids[0] % 2 else [bool(ids[1] % 2), not ids[1] % 2]


def write(batches: list[list[tuple[list[int], bool, str]]]) -> RowStore:
    with RowWriter() as writer:
        for rows in batches:
            batch = RowBatch()
            for ids, desirable, text in rows:
                batch.add(
                    ids[:-2],
                    ids[-2:],
                    (text, text + "!"),
                    desirable=desirable,
                    source_row=len(text),
                    group=ids[0],
                    mask=mask_of(ids),
                )
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
            assert (copy.lengths[number], copy.prompt_lengths[number]) == (len(ids), len(ids) - 2)
            assert copy.mask(number) == mask_of(ids)
            assert copy.scored_lengths[number] == (2 if mask_of(ids) is None else 1)
            assert copy.groups[number] == ids[0]
            assert (copy.prompt(number), copy.completion(number)) == (text, text + "!")
            assert copy.source_rows[number] == len(text)


def test_a_prompt_is_kept_once_per_pair() -> None:
    with RowWriter() as writer:
        batch = RowBatch()
        batch.add([1], [2], ("p", "c"), desirable=True, source_row=0)
        batch.add([1], [3], (None, "r"), desirable=False, source_row=0)
        writer.append(batch.to_arrow())
        store = writer.finish()
    assert [store.prompt(0), store.prompt(1)] == ["p", "p"]


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = write([[([1, 2, 3], True, "a")]])
    assert list(tmp_path.iterdir()) == []
    assert store.tokens(0).tolist() == [1, 2, 3]

    def fail() -> None:
        with RowWriter():
            assert len(list(tmp_path.iterdir())) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_mask_that_leaves_nothing_out_is_none() -> None:
    batch = RowBatch()
    batch.add([1], [2, 3], ("p", "c"), desirable=True, source_row=0, mask=[True, True])
    with RowWriter(in_memory=True) as writer:
        writer.append(batch.to_arrow())
        store = writer.finish()
    assert (store.mask(0), store.has_masks) == (None, False)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads what Linux says of a mapping")
def test_reading_a_file_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distal.data.store._RESIDENT", 2**20)
    path = tmp_path / "rows.arrow"
    with RowWriter(path) as writer:
        for _ in range(12):
            batch = RowBatch()
            for _ in range(20):
                batch.add([1], [7] * 25_000, ("p", "c"), desirable=True, source_row=0)
            writer.append(batch.to_arrow())
        store = writer.finish()
    size = path.stat().st_size
    assert size > 22 * 2**20
    for read in (store.all_tokens(), map(store.tokens, range(len(store)))):
        assert sum(int(tokens.sum()) for tokens in read) == 240 * (1 + 7 * 25_000)
        assert resident(path) < size / 4


def resident(path: Path) -> int:
    """Bytes of a mapped file that the process holds in memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            ours = line.endswith(str(path))
        elif ours and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total
