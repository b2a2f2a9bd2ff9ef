"""Resuming: bitwise the run that was not interrupted, and no other run.

Oracle: the same run in one go, compared bit by bit: weights, optimizer state and the file of the guards.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from peft import LoraConfig

from distal.data import prepare_dataset
from distal.errors import ConfigError
from distal.training.checkpoints import RECORD_FILE, list_checkpoints
from distal.training.resumption import RunIdentity
from tests.training.runs import N_PAIRS, STEPS, StopAfter, equal, state_of

# ------------------------------------------------------------- the same run

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "dropout": {"disable_dropout": False},
    "adapter": {"peft_config": LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj"])},
    "scheduler": {"lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1},
}


@pytest.mark.parametrize("stop", [4, 6], ids=["within an epoch", "between epochs"])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_bitwise_the_run_that_went_through(build, make_llama, tmp_path, case, stop):
    options = {"disable_dropout": case not in ("dropout", "adapter")} | CASES[case]

    def model():
        return make_llama(attention_dropout=0.2) if case == "dropout" else make_llama()

    whole = build("whole", model=model(), **options)
    whole.train()
    build("cut", model=model(), stop=stop, **options).train()
    resumed = build("cut", model=model(), **options)
    resumed.train(resume_from_checkpoint=True)
    assert equal(state_of(whole), state_of(resumed))
    health = [(tmp_path / name / "health.jsonl").read_bytes() for name in ("whole", "cut")]
    assert health[0] == health[1]
    assert [json.loads(line)["step"] for line in health[1].splitlines()] == list(range(1, STEPS + 1))


def test_unpaired_rows_go_on_where_they_were(build, make_samples):
    options = {"data": make_samples(30), "objective": "aot_unpaired"}
    whole = build("whole", **options)
    whole.train()
    build("cut", stop=4, **options).train()
    resumed = build("cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert equal(state_of(whole), state_of(resumed))


def test_the_oracle_can_fail(build, interrupted):
    """With other rows the comparison above finds a difference."""
    whole = build("whole")
    whole.train()
    other = build("other", data_seed=1)
    other.train()
    assert not equal(state_of(whole), state_of(other))


def test_the_sampler_starts_at_the_epoch_of_the_checkpoint(build, interrupted):
    """Transformers before 5.23 skips batches without telling the sampler the epoch: it must know by itself."""
    interrupted()
    trainer = build()
    epochs = []
    trainer.callback_handler.remove_callback(StopAfter)
    original = trainer.get_train_dataloader

    def watched():
        loader = original()
        epochs.append(loader.batch_sampler.epoch)
        return loader

    trainer.get_train_dataloader = watched
    trainer.train(resume_from_checkpoint=True)
    assert epochs == [1]


def test_a_run_that_has_taken_its_last_step_takes_no_other(build, tmp_path):
    """Killed while its results were written, in the middle of an epoch."""
    whole = build("run", max_steps=7)
    whole.train()
    resumed = build("run", max_steps=7)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 7
    assert equal(state_of(whole), state_of(resumed))
    assert len((tmp_path / "run" / "health.jsonl").read_text().splitlines()) == 7


def test_a_checkpoint_can_be_named(build, interrupted, tmp_path):
    interrupted()
    whole = build("whole")
    whole.train()
    resumed = build()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert equal(state_of(whole), state_of(resumed))


# ---------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.2}, r"beta was 0\.1, now 0\.2: the loss would be another one"),
        ({"objective": "dpo"}, "objective was aot, now dpo"),
        ({"sort_group": 4}, "sort_group was None, now 4"),
        ({"global_batch_size": 4}, "global_batch_size was 8, now 4: the remaining steps would not see"),
        ({"data_seed": 7}, "data_seed was 42, now 7"),
        ({"learning_rate": 1e-4}, r"learning_rate was 0\.001, now 0\.0001: the checkpoint's optimizer state"),
        ({"optim": "sgd"}, "optim was .*, now sgd"),
        ({"max_length": 9}, "units was 20, now .*another data file, tokenizer"),
        ({"peft_config": LoraConfig(r=4, target_modules=["q_proj"])}, "trained_weights was 21, now 4"),
    ],
)
def test_what_would_make_it_another_run_is_refused(build, interrupted, options, message):
    interrupted()
    with pytest.raises(ConfigError, match=message):
        build(**options).train(resume_from_checkpoint=True)


def test_changed_data_is_refused(build, interrupted, make_pairs):
    interrupted()
    data = make_pairs(N_PAIRS)
    data[7]["chosen"] += " w5"
    with pytest.raises(ConfigError, match="rows was .*, now .*the training rows are others"):
        build(data=data).train(resume_from_checkpoint=True)


def test_changed_data_is_refused_before_it_is_scored(build, interrupted, make_pairs, monkeypatch):
    interrupted()
    monkeypatch.setattr(
        "distal.training.trainer.reference_scores", lambda *args, **kwargs: pytest.fail("scored")
    )
    with pytest.raises(ConfigError, match="training rows are others"):
        build(data=make_pairs(N_PAIRS, seed=5)).train(resume_from_checkpoint=True)


def test_several_differences_are_told_at_once(build, interrupted):
    interrupted()
    with pytest.raises(ConfigError, match=r"(?s)beta was.*data_seed was"):
        build(beta=0.3, data_seed=1).train(resume_from_checkpoint=True)


def test_the_checkpoint_as_the_model_is_not_the_reference_of_the_run(build, interrupted, tmp_path):
    """The mistake that silently gives another reference: loading the checkpoint, then resuming from it."""
    interrupted()
    with pytest.raises(ConfigError, match="Give the trainer the model that the run started from"):
        build(model=str(tmp_path / "run" / "checkpoint-4")).train(resume_from_checkpoint=True)


def test_another_reference_model_is_refused(build, interrupted, make_llama):
    interrupted(ref_model=make_llama(seed=3))
    build(ref_model=make_llama(seed=3), stop=5).train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="measured against another reference"):
        build(ref_model=make_llama(seed=4)).train(resume_from_checkpoint=True)


def test_another_base_model_under_an_adapter_is_refused(build, make_llama):
    """With a reference of its own, nothing but the base's fingerprint tells."""
    options = {"peft_config": LoraConfig(r=4, target_modules=["q_proj"]), "ref_model": make_llama(seed=3)}
    build(model=make_llama(), stop=4, **options).train()
    with pytest.raises(ConfigError, match="frozen_weights was .*, now"):
        build(model=make_llama(seed=8), **options).train(resume_from_checkpoint=True)


def test_another_scale_of_the_adapter_is_refused(build):
    """Shapes are the same, the function is not."""
    build(peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]), stop=4).train()
    other = build(peft_config=LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"]))
    with pytest.raises(ConfigError, match=r"default\.lora_alpha was 8, now 16"):
        other.train(resume_from_checkpoint=True)


def scored(make_pairs, tokenizer, shift):
    data = prepare_dataset(make_pairs(N_PAIRS), tokenizer)
    return data.with_reference_scores([-40.0 + shift] * data.n_rows)


def test_scores_that_come_with_the_data_are_held_to_those_of_the_run(build, make_pairs, word_tokenizer):
    options = {"check_initial_policy": False}
    build(data=scored(make_pairs, word_tokenizer, 0), stop=4, **options).train()
    build(data=scored(make_pairs, word_tokenizer, 0), stop=5, **options).train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="the reference scores are others"):
        build(data=scored(make_pairs, word_tokenizer, 1e-3), **options).train(resume_from_checkpoint=True)


# ------------------------------------------------- what may change, and is told


def test_more_steps_are_told_and_taken(build, interrupted, caplog):
    interrupted()
    trainer = build(max_steps=STEPS + 2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS + 2
    assert any(f"steps was {STEPS}, now {STEPS + 2}; the remaining steps" in text for text in caplog.messages)


def test_nothing_is_told_where_nothing_changed(build, interrupted, caplog):
    interrupted()
    build().train(resume_from_checkpoint=True)
    assert not [text for text in caplog.messages if "Resuming from" in text]


def test_micro_batches_strategy_and_folder_of_the_cache_may_change(build, interrupted, tmp_path, caplog):
    interrupted()
    build(micro_batch_size=8, reference_cache_dir=str(tmp_path / "new")).train(resume_from_checkpoint=True)
    assert not [text for text in caplog.messages if "Resuming from" in text]


def test_a_checkpoint_without_a_record_is_taken_with_a_warning(build, interrupted, tmp_path, caplog):
    interrupted()
    for path in list_checkpoints(tmp_path / "run"):
        (path / RECORD_FILE).unlink()
    build().train(resume_from_checkpoint=True)
    assert any("does not say what run it belongs to" in text for text in caplog.messages)


def identity(weights, scores):
    sections = {"reference": {"weights": weights, "scores": scores}, "arithmetic": {}, "data": {"rows": "r"}}
    return RunIdentity(sections)


@pytest.mark.parametrize(
    ("then", "now", "sections"),
    [
        (("w", "s"), ("w", "s"), []),
        (("w", "s"), ("w", None), []),  # not scored yet
        (("w", "s"), ("w", "t"), ["arithmetic"]),  # computed anew: rounding
        (("w", "s"), ("v", "s"), ["reference"]),
        (("w", "s"), ("v", None), ["reference"]),
        ((None, "s"), ("w", "s"), []),  # scores of the data, equal to computed ones
        ((None, "s"), ("w", None), []),
        ((None, "s"), ("w", "t"), ["reference"]),
        (("w", "s"), (None, "t"), ["reference"]),
    ],
)
def test_which_difference_of_the_reference_counts(then, now, sections):
    assert list(identity(*now).differences(identity(*then))) == sections


def test_a_checkpoint_of_another_kind_of_launch_is_refused(build, interrupted, tmp_path):
    """DeepSpeed's files for two processes, which one process without DeepSpeed would pass over without a word."""
    interrupted()
    for path in list_checkpoints(tmp_path / "run"):
        record = json.loads((path / RECORD_FILE).read_text())
        record["identity"]["launch"] = {"sharding": "DeepSpeed, ZeRO stage 3", "processes": 2}
        (path / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(
        ConfigError, match=r"sharding was DeepSpeed, ZeRO stage 3, now None: .* Launch as before"
    ):
        build().train(resume_from_checkpoint=True)


def test_a_section_that_an_earlier_version_did_not_write_differs():
    then = RunIdentity({"reference": {"weights": "w", "scores": "s"}, "arithmetic": {}})
    assert identity("w", "s").differences(then) == {"data": ["rows was None, now r"]}
