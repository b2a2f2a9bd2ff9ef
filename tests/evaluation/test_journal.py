"""The file of results: nothing written is lost, nothing damaged is believed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distal.errors import OutputError
from distal.evaluation.journal import Journal, content_key


def write_for_ever(path: Path, said: Any) -> None:
    journal, number = Journal(path), 0
    while True:
        journal.put({f"k{number}": {"number": number, "text": "x" * 20000}})
        said.send(number)
        number += 1


def write_many(path: Path, name: str) -> None:
    journal = Journal(path)
    for number in range(50):
        journal.put({f"{name}-{number}": {"by": name}, f"shared-{number}": {"by": name}})


def test_what_was_put_is_there_for_everybody(tmp_path: Path):
    path = tmp_path / "deep" / "results.jsonl"
    first = Journal(path)
    assert first.get("k") is None
    first.put({"k": {"verdict": "A", "odd": "\ud800 é\n"}})
    assert Journal(path).get("k") == {"verdict": "A", "odd": "\ud800 é\n"}


def test_the_first_result_under_a_key_stays(tmp_path: Path):
    one, other = Journal(tmp_path / "r.jsonl"), Journal(tmp_path / "r.jsonl")
    one.put({"k": {"n": 1}})
    assert other.put({"k": {"n": 2}}) == {"k": {"n": 1}}
    assert Journal(tmp_path / "r.jsonl").get("k") == {"n": 1}
    assert len((tmp_path / "r.jsonl").read_bytes().splitlines()) == 1


@settings(max_examples=20)  # every one of them waits for the disk
@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000))
def test_no_damage_makes_a_wrong_result_or_costs_the_next_one(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
):
    path = tmp_path_factory.mktemp("journal") / "r.jsonl"
    Journal(path).put({f"k{number}": {"number": number} for number in range(4)})
    whole = path.read_bytes()
    damaged = bytearray(whole[: cut % (len(whole) + 1)])
    if damaged:
        damaged[flip % len(damaged)] ^= 1
    path.write_bytes(bytes(damaged))
    journal = Journal(path)
    for number in range(4):
        assert journal.get(f"k{number}") in (None, {"number": number})
    journal.put({"new": {"number": 9}})
    assert Journal(path).get("new") == {"number": 9}
    lost = sum(journal.get(f"k{number}") is None for number in range(4))
    # A flipped bit damages one line, or two where it was the line feed between them; the cut damages what it cuts.
    assert lost <= 4 - bytes(damaged).count(b"\n") + 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_write_at_once(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    journal = Journal(path)
    assert journal.damaged == 0
    assert len(journal) == 150
    assert len(path.read_bytes().splitlines()) == 150, "a shared key was written twice"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_while_writing(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("fork")
    listen, say = context.Pipe(duplex=False)
    process = context.Process(target=write_for_ever, args=(path, say))
    process.start()
    last = -1
    while last < 5:
        last = listen.recv()
    process.kill()
    process.join()
    while listen.poll():
        last = listen.recv()
    journal = Journal(path)
    for number in range(last + 1):
        assert journal.get(f"k{number}") is not None, "a result was announced and is not there"
    assert journal.damaged == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot"):
        Journal(tmp_path / "file" / "r.jsonl").put({"k": {}})


def test_keys_tell_all_parts_apart():
    keys = {
        content_key(a="x", b="y"),
        content_key(a="xy", b=""),
        content_key(a="x"),
        content_key(a="y", b="x"),
    }
    assert len(keys) == 4
