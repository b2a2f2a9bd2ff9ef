"""Atomic writing: whole files or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distal.errors import OutputError
from distal.evaluation.files import write_atomically


def test_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "deep" / "result.json"
    write_atomically(path, b"a longer first version")
    assert write_atomically(path, b"second") == path
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["result.json"]


def test_result_is_as_readable_as_other_files(tmp_path: Path):
    (tmp_path / "ordinary").write_bytes(b"")
    written = write_atomically(tmp_path / "result", b"")
    assert written.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_atomically(tmp_path / "result", b"old")

    def full(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*result: No space left on device; choose a folder"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result"]


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"taken"):
        write_atomically(tmp_path / "taken" / "result.json", b"x")
