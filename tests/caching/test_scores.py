"""Shards of scores on disk: whole or absent, never mixed up, and safe with several processes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.caching import KINDS, ScoreCache, scores
from distal.caching.sealed import seal, unseal
from distal.errors import CacheError, OutputError
from tests.caching.turns_job import ROWS, open_entry, scores_of

JOB = Path(__file__).with_name("turns_job.py")
N = 12


def filled(folder: Path, shards: int = 3) -> Any:
    """An entry with all of its shards."""
    entry = open_entry(str(folder), shards)
    entry.prepare()
    for number in range(shards):
        entry.save(number, scores_of(number))
    entry.close()
    return entry


def files(entry: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(entry.folder.iterdir())}


def flip(path: Path, position: int, mask: int) -> None:
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= mask
    path.write_bytes(content)


def start(folder: Path, *words: int) -> Any:
    command = [sys.executable, str(JOB), str(folder), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_every_part_of_the_identity_and_the_version_are_in_the_key(monkeypatch):
    base = {"weights": "w", "rows": "r"}
    keys = [ScoreCache.key(base), ScoreCache.key({**base, "rows": "s"}), ScoreCache.key({**base, "x": ""})]
    monkeypatch.setattr(scores, "SCORING_VERSION", 99)
    assert len({*keys, ScoreCache.key(base)}) == 4


def test_shards_are_the_same_files_however_often_they_are_written(tmp_path):
    first, again = filled(tmp_path / "a"), filled(tmp_path / "b")
    assert files(first) == files(again)
    assert len(files(first)) == 5, "three shards, the manifest and the lock"


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("flips"))


@given(st.data())
def test_a_flipped_byte_of_any_file_is_named_and_costs_its_shard_alone(entry, data):
    before = files(entry)
    name = data.draw(st.sampled_from([name for name in before if name != "lock"]), "file")
    path = entry.folder / name
    try:
        flip(path, data.draw(st.integers(0, len(before[name]) - 1)), data.draw(st.integers(1, 255)))
        assert [damage.path for damage in KINDS["scores"].check(entry.folder)] == [path]
        messages: list[str] = []
        found = open_entry(str(entry.folder.parent.parent), 3).load_all(messages.append)
        lost = set() if name == "manifest.json" else {int(name[:5])}
        assert set(found) == {0, 1, 2} - lost
        assert all(np.array_equal(found[number], scores_of(number)) for number in found)
        assert len(messages) == 1
        assert str(path) in messages[0]
        for number in lost:
            assert f"rows {ROWS * number} to {ROWS * number + ROWS - 1}" in messages[0]
    finally:
        path.write_bytes(before[name])


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "swapped", "of another entry"])
def test_other_damage(tmp_path, damage):
    entry = filled(tmp_path)
    shards = sorted(entry.folder.glob("0*"))
    content = shards[1].read_bytes()
    other = open_entry(str(tmp_path / "other"), 3, rows="others")
    other.prepare()
    other.save(1, scores_of(1))
    (foreign,) = other.folder.glob("0*")
    assert foreign.name != shards[1].name, "the same scores of other rows are another file"
    changed = {"cut": content[:-1], "empty": b"", "garbage": b"{}" * 99, "swapped": shards[0].read_bytes()}
    if damage == "of another entry":
        shards[1].unlink()
        shards[1] = entry.folder / foreign.name
    shards[1].write_bytes(changed.get(damage, foreign.read_bytes()))
    found = entry.load_all()
    assert set(found) == {0, 2}
    assert [found.path for found in KINDS["scores"].check(entry.folder)] == [shards[1]]
    entry.prepare()
    entry.save(1, scores_of(1))
    assert KINDS["scores"].check(entry.folder) == [], "what was damaged is gone"
    assert set(entry.load_all()) == {0, 1, 2}


def test_the_manifest_is_written_again_where_it_is_lost(tmp_path):
    entry = filled(tmp_path)
    before = files(entry)
    (entry.folder / "manifest.json").unlink()
    assert len(entry.load_all()) == 3
    assert files(entry) == before


TEXT = st.text('ab"\\\n\u00e9\U0001f600', max_size=3)


@given(st.dictionaries(TEXT, st.integers() | TEXT))
def test_seals_hold_any_record(record):
    assert unseal(seal({**record, "schema": "s"})) == {**record, "schema": "s"}


def test_a_folder_that_cannot_be_written_is_named_with_a_way_out(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"taken.*DISTAL_CACHE"):
        open_entry(str(tmp_path / "taken"), 1).prepare()
    entry = filled(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = files(entry)
    with pytest.raises(OutputError, match=r"No space left.*goes on from them.*DISTAL_CACHE"):
        entry.save(0, scores_of(5))
    assert files(entry) == before, "neither half a shard nor a temporary file"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    entry = filled(tmp_path)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(CacheError, match=r"Permission denied.*DISTAL_CACHE"):
        entry.load_all()


def test_a_read_only_cache_gives_what_it_has(tmp_path, monkeypatch):
    entry = filled(tmp_path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    for name in ("utime", "replace", "mkdir"):
        monkeypatch.setattr(os, name, denied)
    monkeypatch.setattr("tempfile.mkstemp", denied)
    assert len(entry.load_all()) == 3
    entry.touch()


def test_two_processes_share_the_work_and_find_the_same(tmp_path):
    jobs = [start(tmp_path, N), start(tmp_path, N)]
    computed = [[int(word) for word in job.communicate(timeout=60)[0].split()] for job in jobs]
    assert sorted(computed[0] + computed[1]) == list(range(N)), "every shard once"
    found = open_entry(str(tmp_path), N).load_all(pytest.fail)
    assert all(np.array_equal(found[number], scores_of(number)) for number in range(N))


def test_what_a_killed_process_held_is_taken_over(tmp_path):
    with start(tmp_path, N, 4) as victim:
        assert victim.stdout.readline() == "dying\n"  # it holds shard 4, and will be gone in half a second
        survivor = start(tmp_path, N)
        computed = [int(word) for word in survivor.communicate(timeout=60)[0].split()]
    assert victim.returncode == -signal.SIGKILL
    assert sorted(computed) == list(range(4, N))
    found = open_entry(str(tmp_path), N).load_all(pytest.fail)
    assert all(np.array_equal(found[number], scores_of(number)) for number in range(N))


def test_a_process_that_is_stopped_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "POLL", 0.001)
    monkeypatch.setattr(scores, "PATIENCE", 0.01)
    entry = open_entry(str(tmp_path), 2)
    entry.prepare()
    monkeypatch.setattr(entry._locks, "acquire", lambda number: number == 0)
    taken = []
    for number, known in entry.turns([0, 1]):
        taken.append((number, known))
        entry.save(number, scores_of(number))
    assert taken == [(0, None), (1, None)]
