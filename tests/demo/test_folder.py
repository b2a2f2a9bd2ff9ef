from __future__ import annotations

import json

import pytest

from distal.demo.folder import STATE_FILE, DemoFolder
from distal.errors import OutputError


def state(folder):
    return json.loads((folder / STATE_FILE).read_text())["state"]


def demo(path, text=None):
    folder = DemoFolder(path, {"seed": 0})
    with folder.held():
        assert state(path) == "running"
        if text is not None:
            (path / "file").write_text(text)
    return folder


def test_a_demo_is_recorded_as_finished_and_leaves_no_lock(tmp_path):
    path = tmp_path / "runs" / "demo"
    folder = demo(path)
    assert state(path) == "finished"
    assert folder.moved_to is None
    assert [entry.name for entry in path.iterdir()] == [STATE_FILE]


def test_earlier_demos_are_moved_aside_and_numbered(tmp_path):
    path = tmp_path / "demo"
    folders = [demo(path, text) for text in ("first", "second", "third")]
    assert [folder.moved_to for folder in folders] == [None, tmp_path / "demo-1", tmp_path / "demo-2"]
    contents = {entry.name: (entry / "file").read_text() for entry in tmp_path.iterdir()}
    assert contents == {"demo": "third", "demo-1": "first", "demo-2": "second"}


@pytest.mark.parametrize(
    ("error", "recorded"), [(KeyboardInterrupt(), "interrupted"), (ValueError("odd"), "failed")]
)
def test_how_it_ended_is_recorded_and_the_next_demo_can_start(tmp_path, error, recorded):
    path = tmp_path / "demo"
    with pytest.raises(type(error)), DemoFolder(path, {}).held():
        raise error
    assert state(path) == recorded
    assert demo(path).moved_to == tmp_path / "demo-1"
    assert state(tmp_path / "demo-1") == recorded


def test_a_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(OutputError, match=r"thesis\.tex.*nothing was touched"),
        DemoFolder(tmp_path, {}).held(),
    ):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "demo").write_text("x")
    with pytest.raises(OutputError, match="is a file"), DemoFolder(tmp_path / "demo", {}).held():
        pass


def test_an_empty_folder_is_used_as_it_is(tmp_path):
    assert demo(tmp_path).moved_to is None


def test_a_folder_in_use_is_refused_and_stays(tmp_path):
    path = tmp_path / "demo"
    with DemoFolder(path, {}).held():
        with pytest.raises(OutputError, match="in use by another process"), DemoFolder(path, {}).held():
            pass
        assert state(path) == "running"
    assert state(path) == "finished"
    assert list(tmp_path.iterdir()) == [path]
