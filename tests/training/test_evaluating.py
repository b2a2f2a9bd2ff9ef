"""Evaluations on the way: the best checkpoint, and answers to fixed prompts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from distal.errors import ConfigError
from distal.training import AlignmentConfig
from distal.training.best import may_be_best
from distal.training.samples import SAMPLES_FILE, SampleCallback, SampleSettings, generate_answers

RATIO = "dominance/violation_ratio"
EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 4, "logging_steps": 10}
BEST = {"load_best_model_at_end": True, "metric_for_best_model": RATIO}


def _ratios(trainer):
    """Violation ratio of each evaluation, by step; NaN where it is undefined."""
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    return {entry["step"]: entry.get(f"eval_{RATIO}", math.nan) for entry in entries}


def test_the_checkpoint_with_the_smallest_ratio_is_loaded_at_the_end(build, make_pairs):
    trainer = build(eval_data=make_pairs(30, seed=5), learning_rate=0.02, **EVERY_STEP, **BEST)
    assert trainer.args.greater_is_better is False
    trainer.train()
    ratios = _ratios(trainer)
    assert list(ratios) == [1, 2, 3, 4]
    best = min(ratios, key=lambda step: ratios[step])
    folder = Path(trainer.args.output_dir) / f"checkpoint-{best}"
    assert trainer.state.best_model_checkpoint == str(folder)
    assert trainer.state.best_metric == ratios[best]
    saved = load_file(folder / "model.safetensors")
    for name, weight in trainer.model.state_dict().items():
        if name in saved:
            assert torch.equal(weight, saved[name]), name
    # The metric is that of the weights at hand.
    assert trainer.evaluate()[f"eval_{RATIO}"] == pytest.approx(ratios[best], abs=1e-6)


def test_undefined_ratios_are_never_best(build, make_pairs):
    trainer = build(eval_data=make_pairs(10, seed=5), learning_rate=0.0, **EVERY_STEP, **BEST)
    trainer.train()
    assert all(math.isnan(ratio) for ratio in _ratios(trainer).values())
    assert trainer.state.best_model_checkpoint is None
    assert trainer.state.best_metric is None


def test_only_steps_that_are_saved_can_be_best(build, make_pairs):
    options = EVERY_STEP | BEST | {"save_steps": 2}
    trainer = build(eval_data=make_pairs(30, seed=5), learning_rate=0.02, **options)
    trainer.train()
    ratios = _ratios(trainer)
    assert trainer.state.best_metric == min(ratios[2], ratios[4])
    assert Path(trainer.state.best_model_checkpoint).is_dir()


def test_a_metric_that_does_not_exist_is_named(build, make_pairs):
    options = EVERY_STEP | BEST | {"metric_for_best_model": "dominance/violations"}
    trainer = build(eval_data=make_pairs(10, seed=5), **options)
    with pytest.raises(ConfigError, match="no evaluation has eval_dominance/violations; did you mean"):
        trainer.train()


def test_nan_is_not_best():
    assert not may_be_best(RATIO, {f"eval_{RATIO}": math.nan}, [])
    assert may_be_best(f"eval_{RATIO}", {f"eval_{RATIO}": 0.0}, [])


def _answers(folder):
    return [json.loads(line) for line in (Path(folder) / SAMPLES_FILE).read_text("utf-8").splitlines()]


def test_answers_are_those_of_greedy_generation(build, make_pairs, word_tokenizer):
    trainer = build(
        eval_data=make_pairs(10, seed=5),
        sample_prompts=3,
        sample_new_tokens=5,
        **EVERY_STEP | {"max_steps": 2},
    )
    trainer.train()
    records = _answers(trainer.args.output_dir)
    assert [record["step"] for record in records] == [1, 1, 1, 2, 2, 2]
    last = records[3:]
    data = trainer.eval_dataset
    assert [record["source_row"] for record in last] == [0, 3, 6]
    for record, unit in zip(last, (0, 3, 6), strict=True):
        row = data[unit][0]
        prompt = torch.tensor([list(row.input_ids[: row.prompt_length])])
        assert record["prompt"] == word_tokenizer.decode(prompt[0])
        ids = prompt
        for _ in range(record["new_tokens"]):  # the likeliest token each time, without `generate`
            with torch.no_grad():
                ids = torch.cat([ids, trainer.model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        answer = word_tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
        assert record["answer"] == answer


def test_sampling_changes_nothing_of_the_run(build, make_pairs):
    weights = []
    for name, options in (("with", {"sample_prompts": 2, "sample_temperature": 1.0}), ("without", {})):
        trainer = build(name, eval_data=make_pairs(10, seed=5), **EVERY_STEP | {"max_steps": 2}, **options)
        trainer.train()
        weights.append(trainer.model.state_dict())
        assert (Path(trainer.args.output_dir) / SAMPLES_FILE).exists() == bool(options)
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])


def test_sampled_answers_are_those_of_their_seed(make_llama, make_rows, word_tokenizer):
    model = make_llama()

    def run(seed):
        found = []
        callback = SampleCallback(
            make_rows(4),
            word_tokenizer,
            SampleSettings(temperature=1.0, seed=seed, new_tokens=8),
            lambda *given: found.append(generate_answers(*given)) or found[-1],
        )
        state = TrainerState(is_world_process_zero=False)
        given = (
            AlignmentConfig(output_dir="unused", use_cpu=True, report_to="none"),
            state,
            TrainerControl(),
        )
        callback.on_train_begin(*given)
        state.global_step = 1
        before = torch.random.get_rng_state()
        callback.on_evaluate(*given, model=model)
        assert torch.equal(before, torch.random.get_rng_state())
        return found[0]

    assert run(1) == run(1) != run(2)


def test_a_resumed_run_writes_each_answer_once(build, make_pairs):
    options = EVERY_STEP | {"sample_prompts": 1, "sample_new_tokens": 3}
    whole = build("whole", eval_data=make_pairs(10, seed=5), **options)
    whole.train()
    cut = build("cut", eval_data=make_pairs(10, seed=5), stop=3, **options)
    cut.train()
    again = build("cut", eval_data=make_pairs(10, seed=5), **options)
    again.train(resume_from_checkpoint=str(Path(again.args.output_dir) / "checkpoint-2"))
    assert _answers(again.args.output_dir) == _answers(whole.args.output_dir)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_prompts": 4}, "sample_prompts has no effect without evaluations on the way"),
        ({"sample_new_tokens": 4}, "sample_new_tokens has no effect without sample_prompts"),
        ({"sample_temperature": 1.0}, "sample_temperature has no effect without sample_prompts"),
        ({"sample_prompts": -1}, "sample_prompts: expected a whole number of at least 0"),
        (
            {"sample_prompts": 1, "sample_temperature": -1.0, "eval_strategy": "steps", "eval_steps": 1},
            "sample_temperature: expected a number of at least 0",
        ),
        ({"metric_for_best_model": RATIO, "greater_is_better": True}, "the smallest one is best"),
    ],
)
def test_options_without_sense_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        AlignmentConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)


def test_samples_need_prompts(build):
    with pytest.raises(ConfigError, match="its prompts come from the evaluation data"):
        build(sample_prompts=2, eval_strategy="no", eval_on_start=True)
