"""Saving: a checkpoint is in place whole or not at all, and the one that is needed is not deleted."""

from __future__ import annotations

import json

import pytest

from distal.errors import ConfigError, OutputError
from distal.training import saving
from distal.training.checkpoints import RECORD_FILE, STAGING, list_checkpoints, why_unusable
from tests.training.runs import equal, state_of


def test_a_checkpoint_holds_the_record_and_nothing_is_left_behind(build, tmp_path):
    build(save_total_limit=2).train()
    run = tmp_path / "run"
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-8", "checkpoint-9"]
    assert all((path / RECORD_FILE).exists() and why_unusable(path) is None for path in list_checkpoints(run))
    assert not (run / STAGING).exists()
    assert not list(run.rglob("training_args.bin"))


def test_nothing_is_in_place_until_all_of_it_is(build, tmp_path, monkeypatch):
    """At every moment while the parent class writes, the run folder shows whole checkpoints only."""
    trainer = build(stop=4)
    seen = []
    for name in ("_save_optimizer_and_scheduler", "_save_rng_state"):
        original = getattr(trainer, name)

        def watched(folder, original=original):
            seen.append([why_unusable(path) for path in list_checkpoints(tmp_path / "run")])
            assert STAGING in str(folder)
            original(folder)

        monkeypatch.setattr(trainer, name, watched)
    trainer.train()
    assert seen == [[], [], [None], [None]]


def test_a_failing_save_leaves_the_earlier_checkpoint_and_no_remains(build, tmp_path, monkeypatch):
    trainer = build()
    original = trainer._save_rng_state

    def full(folder):
        if trainer.state.global_step == 4:
            raise OSError(28, "No space left on device")
        original(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", full)
    with pytest.raises(OSError, match="No space"):
        trainer.train()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert not (tmp_path / "run" / STAGING).exists()
    resumed = build()
    resumed.train(resume_from_checkpoint=True)
    whole = build("whole")
    whole.train()
    assert equal(state_of(whole), state_of(resumed))


def test_the_best_checkpoint_is_kept_and_named_where_it_is(build, tmp_path, make_pairs):
    trainer = build(
        eval_data=make_pairs(9, seed=3),
        eval_strategy="steps",
        eval_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="rewards/accuracies",
        max_steps=8,
    )
    # The first evaluation is the best by far.
    values = iter([0.9, 0.1, 0.2, 0.3])
    original = trainer.evaluation_loop

    def evaluated(*args: object, **kwargs):
        output = original(*args, **kwargs)
        output.metrics["eval_rewards/accuracies"] = next(values)
        return output

    trainer.evaluation_loop = evaluated
    trainer.train()
    best = tmp_path / "run" / "checkpoint-2"
    assert trainer.state.best_model_checkpoint == str(best)
    assert best.is_dir()
    state = json.loads((best / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(best)


def test_weights_alone_cannot_be_resumed_from(build, tmp_path):
    build(save_only_model=True, stop=4).train()
    with pytest.raises(OutputError, match="2 unusable"):
        build().train(resume_from_checkpoint=True)
    with pytest.raises(OutputError, match="save_only_model keeps none"):
        build().train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    with pytest.raises(OutputError, match="no such folder"):
        build().train(resume_from_checkpoint=str(tmp_path / "elsewhere"))


def test_remains_of_a_killed_process_are_cleared_away(build, interrupted, tmp_path):
    interrupted()
    run = tmp_path / "run"
    (run / "checkpoint-4").rename(run / "moved")
    (run / STAGING).mkdir()
    (run / "moved").rename(run / STAGING / "checkpoint-4")  # whole, but killed before the rename
    (run / STAGING / "old-checkpoint-1").mkdir()
    whole = build("whole")
    whole.train()
    resumed = build()
    resumed.train(resume_from_checkpoint=True)
    assert resumed._first_step == 4
    assert equal(state_of(whole), state_of(resumed))
    assert not (run / STAGING).exists()


def test_files_of_other_parts_travel_with_the_checkpoint(build, tmp_path, monkeypatch):
    trainer = build(stop=2)
    monkeypatch.setattr(trainer, "save_own_state", lambda folder: (folder / "own.bin").write_bytes(b"x"))
    trainer.train()
    record = json.loads((tmp_path / "run" / "checkpoint-2" / RECORD_FILE).read_text())
    assert record["files"]["own.bin"] == 1


def test_uploads_start_from_where_the_checkpoint_stays(build, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        saving.Trainer, "_push_from_checkpoint", lambda self, folder: pushed.append(folder), raising=True
    )
    trainer = build(stop=2)
    trainer.args.push_to_hub = True
    monkeypatch.setattr(trainer, "push_to_hub", lambda *args, **kwargs: None)
    trainer.train()
    assert pushed == [str(tmp_path / "run" / "checkpoint-2")]


def test_skipping_no_rows_is_refused(build):
    with pytest.raises(ConfigError, match="ignore_data_skip: True is not supported"):
        build(ignore_data_skip=True)
