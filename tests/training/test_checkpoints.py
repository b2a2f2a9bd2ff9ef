"""Checkpoints on disk: which are usable, and that no moment of dying leaves a run without one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from distal.errors import OutputError
from distal.training.checkpoints import (
    RECORD_FILE,
    STAGING,
    discard_staged,
    last_complete_checkpoint,
    last_usable_checkpoint,
    list_checkpoints,
    promote_staged,
    publish,
    read_record,
    rotate,
    why_unusable,
    write_record,
)


def saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


CONTENT = {
    "model.safetensors": save({"a": torch.zeros(4)}),
    "optimizer.pt": saved({"state": {}}),
    "rng_state.pth": saved({}),
}


def make(path, *, record=True, age=0):
    """A checkpoint like the Trainer's; `age` seconds old."""
    path.mkdir(parents=True)
    for name, content in CONTENT.items():
        (path / name).write_bytes(content)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": int(path.name.split("-")[1])}))
    if record:
        write_record(path, {"data": {"rows": "r"}})
    written = path.stat().st_mtime - age
    os.utime(path / "trainer_state.json", (written, written))
    return path


def cut(path, count=1):
    path.write_bytes(path.read_bytes()[:-count])


# ------------------------------------------------------------------- usable


def test_the_newest_is_by_number_not_by_name(tmp_path):
    for step in (2, 10, 9):
        make(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-11").write_text("a file")
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-9",
        "checkpoint-10",
    ]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"


def test_a_folder_that_does_not_exist_has_none(tmp_path):
    assert last_usable_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (
            lambda path: (path / "trainer_state.json").write_text('{"glob'),
            "trainer_state.json cannot be read",
        ),
        (lambda path: (path / "trainer_state.json").write_text("{}"), "names no global_step"),
        (lambda path: cut(path / "model.safetensors"), "model.safetensors"),
        (lambda path: cut(path / "model.safetensors", 60), "model.safetensors"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing|no weights"),
        (lambda path: cut(path / "optimizer.pt", 30), "optimizer.pt"),
        (lambda path: cut(path / "rng_state.pth", 30), "rng_state.pth"),
    ],
)
def test_damaged_checkpoints_are_passed_over_with_the_reason(tmp_path, caplog, record, damage, reason):
    good, bad = make(tmp_path / "checkpoint-4"), make(tmp_path / "checkpoint-6", record=record)
    damage(bad)
    assert last_usable_checkpoint(tmp_path) == good
    (message,) = caplog.messages
    assert "checkpoint-6 is skipped" in message
    assert re.search(reason, message)


def test_a_missing_shard_is_noticed_without_a_record(tmp_path):
    folder = make(tmp_path / "checkpoint-1", record=False)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors is missing" in (why_unusable(folder) or "")


def test_any_layout_is_usable_if_the_record_says_it_is_whole(tmp_path):
    """Sharded checkpoints (FSDP, DeepSpeed) have no model.safetensors; the record lists what they have."""
    folder = tmp_path / "checkpoint-1"
    for name in ("pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"shard")
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    write_record(folder, {})
    assert why_unusable(folder) is None
    cut(folder / "optimizer_0" / "__0_0.distcp")
    assert why_unusable(folder) == "it is damaged: optimizer_0/__0_0.distcp has 4 of 5 bytes"


def test_weights_alone_cannot_be_gone_on_from_but_are_no_damage(tmp_path):
    folder = make(tmp_path / "checkpoint-1", record=False)
    (folder / "optimizer.pt").unlink()
    write_record(folder, {})
    assert "save_only_model" in (why_unusable(folder) or "")
    with pytest.raises(OutputError, match="1 unusable"):
        last_complete_checkpoint(tmp_path)


def test_the_record_of_a_later_version_is_refused(tmp_path):
    folder = make(tmp_path / "checkpoint-1")
    assert (read_record(folder) or {})["identity"] == {"data": {"rows": "r"}}
    (folder / RECORD_FILE).write_text('{"format": 99}')
    with pytest.raises(OutputError, match="format 99"):
        read_record(folder)
    assert "format 99" in (why_unusable(folder) or "")


# ----------------------------------------------------------------- rotation


def test_rotation_deletes_the_oldest_and_never_what_is_protected(tmp_path):
    best, second, third, last = (make(tmp_path / f"checkpoint-{n}", age=40 - n) for n in (1, 2, 3, 4))
    rotate(tmp_path, 3, protected={best, last})
    assert list_checkpoints(tmp_path) == [best, third, last]
    assert not second.exists()
    rotate(tmp_path, 1, protected={best, last})
    assert list_checkpoints(tmp_path) == [best, last]


@pytest.mark.parametrize("keep", [None, 0])
def test_no_limit_deletes_nothing(tmp_path, keep):
    make(tmp_path / "checkpoint-1")
    make(tmp_path / "checkpoint-2")
    rotate(tmp_path, keep, protected=set())
    assert len(list_checkpoints(tmp_path)) == 2


def test_checkpoints_of_an_earlier_run_with_higher_numbers_go_first(tmp_path):
    make(tmp_path / "checkpoint-900", age=100)
    new = make(tmp_path / "checkpoint-3", age=1)
    rotate(tmp_path, 1, protected={new})
    assert list_checkpoints(tmp_path) == [new]


def test_an_unusable_checkpoint_never_takes_the_place_of_a_usable_one(tmp_path):
    """The Trainer's own rotation keeps the newest by time, whole or not."""
    older, newest = make(tmp_path / "checkpoint-4", age=50), make(tmp_path / "checkpoint-8", age=10)
    broken = make(tmp_path / "checkpoint-6", age=0)
    cut(broken / "model.safetensors")
    rotate(tmp_path, 2, protected={newest})
    assert list_checkpoints(tmp_path) == [older, newest]


def test_a_protected_checkpoint_may_be_spelt_differently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    best, last = make(tmp_path / "checkpoint-1", age=9), make(tmp_path / "checkpoint-2")
    rotate(tmp_path, 1, protected={last, Path("checkpoint-1")})
    assert list_checkpoints(tmp_path) == [best, last]


# ------------------------------------------------- dying at any moment (kill)


class Killed(BaseException):
    """The process dies here: nothing of ours catches it."""


class Killer:
    """Dies at the k-th operation on the file system; `shutil.rmtree` may also die half done."""

    def __init__(self, monkeypatch, moment):
        self.left, self.happened = moment, False
        rename, fsync, rmtree, mkdir = os.rename, os.fsync, shutil.rmtree, os.mkdir

        def wrapped(real):
            def call(path, *others: object, **kwargs):
                self.tick()
                return real(path, *others, **kwargs)

            return call

        def half_removed(path, **kwargs):
            self.tick()
            files = sorted(Path(path).rglob("*")) if Path(path).exists() else []
            for file in files[: len(files) // 2]:
                if file.is_file():
                    file.unlink()
            self.tick()
            rmtree(path, **kwargs)

        for name, real in (("rename", rename), ("fsync", fsync), ("mkdir", mkdir)):
            monkeypatch.setattr(os, name, wrapped(real))
        monkeypatch.setattr(shutil, "rmtree", half_removed)

    def tick(self):
        self.left -= 1
        if self.left < 0:
            self.happened = True
            raise Killed


def put_in_place(run_dir):
    """What the trainer does once the parent class has written everything into the staging folder."""
    target = run_dir / "checkpoint-6"
    publish(run_dir / STAGING / target.name, target)
    rotate(run_dir, 1, protected={target})
    discard_staged(run_dir)


def killed_at(moment, work):
    """Whether `work` died at an operation; False if it came to its end before."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        killer = Killer(monkeypatch, moment)
        with contextlib.suppress(Killed):
            work()
    return killer.happened


@pytest.mark.parametrize("number_taken", [False, True])
def test_every_moment_of_dying_leaves_a_usable_checkpoint(tmp_path, number_taken):
    """Exhaustive over the operations of publishing, rotating with save_total_limit=1, and recovering."""
    for moment in range(1000):
        for second in range(1000):
            run_dir = tmp_path / f"{moment}-{second}"
            old = make(run_dir / ("checkpoint-6" if number_taken else "checkpoint-3"), age=60)
            (old / "mark").write_text("old")
            make(run_dir / STAGING / "checkpoint-6")
            died = killed_at(moment, lambda run_dir=run_dir: put_in_place(run_dir))
            if not number_taken:  # else there are two renames, and nothing in place between them
                assert last_usable_checkpoint(run_dir) is not None, moment
            if not died:
                assert moment > 10
                assert list_checkpoints(run_dir) == [run_dir / "checkpoint-6"]
                assert not (run_dir / "checkpoint-6" / "mark").exists()
                return
            died_again = killed_at(second, lambda run_dir=run_dir: promote_staged(run_dir))
            promote_staged(run_dir)
            assert last_usable_checkpoint(run_dir) is not None, (moment, second)
            assert not (run_dir / STAGING).exists()
            shutil.rmtree(run_dir)
            if not died_again:
                break


def test_dying_while_the_files_are_written_leaves_the_old_one(tmp_path):
    """Half of a checkpoint in the staging folder is neither taken nor promoted, whatever half it is."""
    old = make(tmp_path / "checkpoint-3")
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json", RECORD_FILE):
        staged = make(tmp_path / STAGING / "checkpoint-6")
        cut(staged / name, 3)
        assert last_usable_checkpoint(tmp_path) == old
        promote_staged(tmp_path)
        assert list_checkpoints(tmp_path) == [old]
    make(tmp_path / STAGING / "checkpoint-6", record=False)
    promote_staged(tmp_path)
    assert list_checkpoints(tmp_path) == [old], "without its record nobody knows whether it is whole"


def test_a_whole_checkpoint_that_was_not_put_in_place_is_put_there(tmp_path):
    make(tmp_path / STAGING / "checkpoint-6")
    promote_staged(tmp_path)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-6"


def test_what_is_in_place_is_not_replaced_by_remains(tmp_path):
    (make(tmp_path / "checkpoint-6") / "mark").touch()
    make(tmp_path / STAGING / "checkpoint-6")
    promote_staged(tmp_path)
    assert (tmp_path / "checkpoint-6" / "mark").exists()
