"""The output folder: what is refused, what is kept, what is removed, and what the state file says."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from distal.errors import ConfigError, OutputError
from distal.training.checkpoints import RECORD_FILE, STAGING, list_checkpoints, write_record
from distal.training.health import HEALTH_FILE
from distal.workflow.run_folder import CONFIG_FILE, STATE_FILE, RunFolder, check_same_options


def state_of(path: Path) -> dict[str, Any]:
    return json.loads((path / STATE_FILE).read_text())


def begin(folder: RunFolder, *, keep: bool = False) -> None:
    folder.begin("model: m\n", command="distal align", versions={"distal": "0"}, keep=keep)


def broken_off(path: Path, error: BaseException) -> None:
    """A run that ends with an error after it has begun."""
    with RunFolder(path).claim() as folder:
        begin(folder)
        assert state_of(path)["state"] == "running"
        raise error


def finished_run(path: Path) -> None:
    """A folder with a finished run that published two files."""
    with RunFolder(path).claim() as folder:
        begin(folder)
        with folder.publishing() as target:
            (target / "model.safetensors").write_text("weights")
            (target / "README.md").write_text("card")
        folder.finish(steps=3)


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(entry.relative_to(path)): entry.read_bytes() for entry in path.rglob("*") if entry.is_file()}


def make_checkpoint(path: Path, step: int) -> Path:
    """A checkpoint as the trainer puts it in place."""
    folder = path / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).write_bytes(b"content")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    write_record(folder, {})
    return folder


def test_new_folder_is_made_and_removed_again_if_nothing_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    with RunFolder(path).claim():
        assert path.is_dir()
    assert not path.exists()


def test_empty_folder_of_the_user_is_used_and_stays(tmp_path: Path) -> None:
    with RunFolder(tmp_path).claim():
        pass
    assert tmp_path.is_dir()


def test_foreign_files_are_refused_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for choice in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(
            OutputError, match=r"holds no run of Distal \(found thesis\.tex\); nothing was touched"
        ):
            RunFolder(tmp_path).claim(**choice)
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file; name a folder"):
        RunFolder(tmp_path / "out").claim()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="cannot write to output folder"):
        RunFolder(tmp_path / "out").claim()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write to output folder .*Not a directory.*--output-dir"):
        RunFolder(tmp_path / "file" / "out").claim()


def test_finished_run_is_refused_and_untouched(tmp_path: Path) -> None:
    finished_run(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(
        OutputError, match=r"already holds a run \(finished, .*nothing was touched.*--overwrite"
    ) as caught:
        RunFolder(tmp_path).claim()
    assert "--resume" not in str(caught.value)  # it would be refused as well
    with pytest.raises(OutputError, match="nothing to resume: the run in .* is finished"):
        RunFolder(tmp_path).claim(resume=True)
    assert snapshot(tmp_path) == before


def test_overwrite_removes_what_distal_wrote_only_when_the_new_run_begins(tmp_path: Path) -> None:
    finished_run(tmp_path)
    make_checkpoint(tmp_path, 3)
    make_checkpoint(tmp_path / STAGING, 6)
    (tmp_path / HEALTH_FILE).touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with RunFolder(tmp_path).claim(overwrite=True):
        pass  # data or model could not be loaded
    assert snapshot(tmp_path) == before
    with RunFolder(tmp_path).claim(overwrite=True) as folder:
        begin(folder)
        assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != ".distal.lock") == [
            CONFIG_FILE,
            "notes.txt",
            STATE_FILE,
        ]


def test_files_listed_outside_the_folder_are_not_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("keep")
    finished_run(tmp_path / "run")
    record = state_of(tmp_path / "run") | {"files": ["../outside.txt", str(outside)]}
    (tmp_path / "run" / STATE_FILE).write_text(json.dumps(record))
    with RunFolder(tmp_path / "run").claim(overwrite=True) as folder:
        begin(folder)
    assert outside.read_text() == "keep"


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing to resume: .* holds no run"):
        RunFolder(tmp_path / "new").claim(resume=True)
    assert not (tmp_path / "new").exists()


def test_second_process_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path).claim(), pytest.raises(OutputError, match="in use by another process"):
        RunFolder(tmp_path).claim(overwrite=True)


@pytest.mark.parametrize(
    ("error", "state", "note"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (ValueError("loss is NaN"), "failed", "ValueError: loss is NaN"),
    ],
)
def test_state_after_an_error(tmp_path: Path, error: BaseException, state: str, note: str | None) -> None:
    with pytest.raises(type(error)):
        broken_off(tmp_path, error)
    assert state_of(tmp_path)["state"] == state
    assert state_of(tmp_path)["error"] == note
    assert not (tmp_path / ".distal.lock").exists()


def test_run_that_was_killed_is_named_as_such(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).claim()
    begin(folder)
    folder.release()  # as the system does when a process dies; the state still says running
    with pytest.raises(OutputError, match="killed while it was running.*--resume"):
        RunFolder(tmp_path).claim()


def test_what_a_process_leaves_that_is_killed_before_its_run_begins_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".write-test-4711", f".{STATE_FILE}.x1y2", ".distal.lock"):
        (tmp_path / name).touch()
    with RunFolder(tmp_path).claim() as folder:
        begin(folder)
    assert sorted(snapshot(tmp_path)) == [CONFIG_FILE, STATE_FILE]


def test_killed_while_it_replaces_a_run_the_folder_is_still_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path)
    make_checkpoint(tmp_path, 3)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, RunFolder(tmp_path).claim(overwrite=True) as folder:
        patched.setattr("distal.workflow.run_folder.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(folder)
    with RunFolder(tmp_path).claim(overwrite=True) as folder:
        begin(folder)
    assert sorted(snapshot(tmp_path)) == [CONFIG_FILE, STATE_FILE]


def test_resuming_keeps_start_and_files(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        broken_off(tmp_path, KeyboardInterrupt())
    started = state_of(tmp_path)["started"]
    with RunFolder(tmp_path).claim(resume=True) as folder:
        assert folder.state == "interrupted"
        begin(folder, keep=True)
        folder.finish(steps=1)
    record = state_of(tmp_path)
    assert record["started"] == started
    assert len(record["resumed"]) == 1
    assert record["state"] == "finished"


def test_damaged_state_file_still_counts_as_a_run(tmp_path: Path) -> None:
    finished_run(tmp_path)
    (tmp_path / STATE_FILE).write_text("{")
    with pytest.raises(OutputError, match="already holds a run"):
        RunFolder(tmp_path).claim()


def test_results_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    def publish() -> None:
        with RunFolder(tmp_path).claim() as folder:
            begin(folder)
            with folder.publishing() as target:
                (target / "model.safetensors").write_text("half of the wei")
                raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        publish()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [CONFIG_FILE, STATE_FILE]


def test_published_files_are_as_readable_as_others(tmp_path: Path) -> None:
    with RunFolder(tmp_path).claim() as folder:
        begin(folder)
        with folder.publishing() as target:
            (target / "model.safetensors").write_text("weights")
            (target / "model.safetensors").chmod(0o600)
        ordinary = tmp_path / "ordinary"
        ordinary.touch()
        assert (tmp_path / "model.safetensors").stat().st_mode == ordinary.stat().st_mode


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", main=False).claim() as folder:
        begin(folder)
        with folder.publishing():
            pass
        folder.finish()
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoints_are_passed_over_and_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        broken_off(tmp_path, KeyboardInterrupt())
    good, bad = make_checkpoint(tmp_path, 4), make_checkpoint(tmp_path, 6)
    (bad / "optimizer.pt").write_bytes(b"cont")
    with RunFolder(tmp_path).claim(resume=True) as folder:
        begin(folder, keep=True)
        assert folder.checkpoint == good
    assert "checkpoint-6 is skipped: it is damaged: optimizer.pt has 4 of 7 bytes" in caplog.text
    assert list_checkpoints(tmp_path) == [good, bad]


def test_a_whole_checkpoint_that_a_kill_kept_from_its_place_is_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        broken_off(tmp_path, KeyboardInterrupt())
    make_checkpoint(tmp_path, 4)
    make_checkpoint(tmp_path / STAGING, 6)
    (make_checkpoint(tmp_path / STAGING, 8) / RECORD_FILE).unlink()
    with RunFolder(tmp_path).claim(resume=True) as folder:
        begin(folder, keep=True)
        assert folder.checkpoint == tmp_path / "checkpoint-6"
    assert not (tmp_path / STAGING).exists()


def test_no_checkpoints(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).checkpoint is None
    assert RunFolder(tmp_path / "nowhere").checkpoint is None


def test_differences_are_listed(tmp_path: Path) -> None:
    check_same_options(tmp_path, [])
    with pytest.raises(ConfigError, match="started with other options:\n  - beta: 1\n  - seed: 2\n"):
        check_same_options(tmp_path, ["beta: 1", "seed: 2"])
