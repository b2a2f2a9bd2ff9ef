"""The trainer over several optimizer steps: invariance to micro-batches, and agreement with TRL."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig

from distal.errors import ConfigError, ModelError, NonFiniteError, ReferenceMismatchError
from distal.training import AlignmentConfig, AlignmentTrainer
from tests.scoring.architectures import ARCHITECTURES, model_of

N_PAIRS = 16


@pytest.fixture
def config(tmp_path):
    """Six AdamW steps at 1e-3 over one optimizer batch of 16 pairs, on the CPU."""

    def make(**options):
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "reference_cache_dir": str(tmp_path / "cache"),
            "global_batch_size": N_PAIRS,
            "num_train_epochs": 6,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "beta": 0.1,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
        }
        return AlignmentConfig(**(settings | options))

    return make


@pytest.fixture
def run(config, make_llama, make_pairs, word_tokenizer):
    """Train a tiny model and return the trainer."""

    def train(dtype=torch.float32, model=None, data=None, peft_config=None, resume=None, **options):
        trainer = AlignmentTrainer(
            model if model is not None else make_llama(dtype=dtype),
            args=config(**options),
            train_dataset=data if data is not None else make_pairs(N_PAIRS),
            processing_class=word_tokenizer,
            peft_config=peft_config,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def distance(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("objective", ["aot", "aot_unpaired", "dpo"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_six_steps_end_alike_for_every_micro_batch(run, objective, dtype, tolerance):
    start = weights(run(dtype, max_steps=1, learning_rate=0.0))
    ends = [weights(run(dtype, objective=objective, micro_batch_size=size)) for size in (1, 4, 16)]
    assert distance(ends[0], start) > 1e-3, "training must move the weights"
    assert distance(ends[0], ends[2]) <= tolerance
    assert distance(ends[1], ends[2]) <= tolerance


def test_six_steps_end_alike_for_every_layout(run, make_pairs):
    """From rewards of zero: policy and reference are laid out alike. Prompts are long enough to be shared."""
    data = [{**pair, "prompt": f"{pair['prompt']} {'w7 w9 ' * 10}".strip()} for pair in make_pairs(N_PAIRS)]
    trainers = {
        layout: run(data=data, layout=layout, tokens_per_micro_batch=150, strategy="recompute")
        for layout in ("padded", "packed", "prefix_shared", "auto")
    }
    ends = {layout: weights(trainer) for layout, trainer in trainers.items()}
    assert trainers["auto"].layout.name == "prefix_shared"
    for layout in ("packed", "prefix_shared", "auto"):
        assert distance(ends[layout], ends["padded"]) <= 1e-5
    for trainer in trainers.values():
        first = trainer.state.log_history[0]
        assert first["rewards/chosen"] == 0
        assert first["rewards/rejected"] == 0
        assert trainer.evaluate(trainer.train_dataset)["eval_rewards/margins"] != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unpaired_rows_end_alike_for_every_micro_batch(run, make_samples, dtype):
    ends = [
        weights(
            run(
                dtype,
                data=make_samples(30),
                objective="aot_unpaired",
                global_batch_size=10,
                micro_batch_size=size,
            )
        )
        for size in (1, 4, 10)
    ]
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    assert distance(ends[0], ends[2]) <= tolerance
    assert distance(ends[1], ends[2]) <= tolerance


def test_aot_at_micro_batch_1_is_not_dpo(run):
    aot, dpo = (weights(run(objective=name, micro_batch_size=1)) for name in ("aot", "dpo"))
    assert distance(aot, dpo) > 1e-4


@pytest.mark.parametrize(
    ("objective", "loss_type"), [("aot", "aot"), ("aot_unpaired", "aot_unpaired"), ("dpo", "sigmoid")]
)
def test_six_steps_agree_with_trl(
    run, make_llama, make_pairs, word_tokenizer, tmp_path, objective, loss_type
):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    model = make_llama()
    theirs = trl.DPOTrainer(
        model,
        copy.deepcopy(model),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"),
            loss_type=[loss_type],
            beta=0.1,
            per_device_train_batch_size=N_PAIRS,
            num_train_epochs=6,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(make_pairs(N_PAIRS)),
        processing_class=word_tokenizer,
    )
    theirs.train()
    for micro_batch_size in (1, 16):
        ours = weights(run(objective=objective, micro_batch_size=micro_batch_size))
        assert distance(ours, weights(theirs)) <= 2e-5


def test_lora_trains_the_adapter_only_and_starts_at_the_reference(run, make_llama):
    peft_config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    ends = [weights(run(peft_config=peft_config, objective="aot", micro_batch_size=size)) for size in (2, 16)]
    assert distance(*ends) <= 1e-5
    base = make_llama().state_dict()
    for name, value in ends[0].items():
        if "lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(value, base[plain])
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in ends[0].items())


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=4, target_modules=["q_proj"])])
def test_gradient_checkpointing_changes_nothing(run, peft_config):
    # transformers 5.23 renamed the option.
    name = (
        "activation_checkpointing"
        if hasattr(AlignmentConfig, "activation_checkpointing")
        else "gradient_checkpointing"
    )
    options = {"objective": "aot", "micro_batch_size": 4, "peft_config": peft_config}
    checkpointed = weights(run(torch.float64, **options, **{name: True}))
    assert distance(checkpointed, weights(run(torch.float64, **options))) <= 1e-10


def test_bf16_autocast_starts_at_zero_reward(run):
    trainer = run(objective="aot", micro_batch_size=4, bf16=True, max_steps=2)
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.693, abs=2e-2)
    assert abs(first["rewards/margins"]) < 0.5


def test_metrics_are_logged_under_trl_names(run):
    trainer = run(objective="aot", micro_batch_size=4)
    first, last = trainer.state.log_history[0], trainer.state.log_history[5]
    names = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"}
    assert names <= first.keys()
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert last["rewards/margins"] > 1
    assert last["loss"] < first["loss"]
    assert 0 <= last["dominance/violation_ratio"] <= 1


def test_evaluation_is_of_the_whole_set(config, make_llama, make_pairs, word_tokenizer):
    """Loss and metrics do not depend on how many tokens a forward pass holds, and equal one objective call."""
    results = []
    for tokens in (1, 10_000):
        trainer = AlignmentTrainer(
            make_llama(dtype=torch.float64),
            make_llama(dtype=torch.float64, seed=5),
            args=config(objective="aot", reference_tokens_per_batch=tokens),
            eval_dataset=make_pairs(11, seed=4),
            processing_class=word_tokenizer,
        )
        results.append(trainer.evaluate())
    for name in ("eval_loss", "eval_rewards/margins", "eval_dominance/violation_ratio"):
        assert results[0][name] == pytest.approx(results[1][name], abs=1e-10)
    assert results[0]["eval_loss"] != pytest.approx(0.6931, abs=1e-3)


def test_several_evaluation_sets_and_evaluation_after_training(
    config, make_llama, make_pairs, word_tokenizer
):
    trainer = AlignmentTrainer(
        make_llama(),
        args=config(objective="aot", max_steps=2),
        train_dataset=make_pairs(N_PAIRS),
        eval_dataset={"a": make_pairs(5, seed=1), "b": make_pairs(6, seed=2)},
        processing_class=word_tokenizer,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_a_loss", "eval_b_loss"} <= metrics.keys()
    assert metrics["eval_a_rewards/chosen"] != 0
    with pytest.raises(ModelError, match="before train"):
        trainer.evaluate(make_pairs(4, seed=9))


def test_a_reference_that_is_not_the_start_is_found(config, make_llama, make_pairs, word_tokenizer):
    trainer = AlignmentTrainer(
        make_llama(), args=config(), train_dataset=make_pairs(N_PAIRS), processing_class=word_tokenizer
    )
    trainer.train_dataset = trainer.train_dataset.with_reference_scores(
        torch.full((2 * N_PAIRS,), -40.0, dtype=torch.float64).numpy()
    )
    with pytest.raises(ReferenceMismatchError, match="must be 0"):
        trainer.train()


def test_an_adapter_that_does_not_start_at_zero_is_found(run):
    with pytest.raises(ReferenceMismatchError, match="init_lora_weights"):
        run(peft_config=LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))


def test_nan_weights_stop_before_the_first_step(run, make_llama):
    model = make_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="weights may hold NaN"):
        run(model=model)


def test_an_overflowing_gradient_stops_before_the_update(run, make_llama):
    model = make_llama()

    def overflow(gradient):
        return gradient * float("inf")

    model.model.norm.weight.register_hook(overflow)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteError, match="gradient norm"):
        run(model=model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "atot"}, "did you mean 'aot'"),
        ({"objective": "dpo", "cost": "hinge"}, "cost"),
        ({"micro_batch_size": 2, "tokens_per_micro_batch": 9}, "exclude each other"),
        ({"gradient_accumulation_steps": 4}, "global_batch_size"),
        ({"per_device_train_batch_size": 4}, "global_batch_size"),
        ({"per_device_eval_batch_size": 4}, "reference_tokens_per_batch"),
        ({"global_batch_size": 0}, "at least 1"),
        ({"global_batch_size": 2.5}, "whole number"),
        ({"micro_batch_size": True}, "whole number"),
        ({"strategy": "recompte"}, "did you mean 'recompute'"),
        ({"truncation": "cut"}, "Choices: drop"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing"),
        ({"auto_find_batch_size": True}, "micro_batch_size"),
        ({"neftune_noise_alpha": 5.0}, "noise"),
        ({"beta": -1.0}, "beta"),
    ],
)
def test_wrong_options_are_refused_at_construction(config, options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)


def test_a_config_can_be_copied(config):
    import dataclasses

    assert dataclasses.replace(config(), learning_rate=1e-4).global_batch_size == N_PAIRS


def test_the_loader_is_told_of_its_workers(config, make_llama, make_pairs, word_tokenizer):
    def loader(**options):
        return AlignmentTrainer(
            make_llama(),
            args=config(**options),
            train_dataset=make_pairs(N_PAIRS),
            processing_class=word_tokenizer,
        ).get_train_dataloader()

    told = {"dataloader_persistent_workers": True, "dataloader_prefetch_factor": 4}
    found = loader(dataloader_num_workers=1, **told)
    assert (found.num_workers, found.persistent_workers, found.prefetch_factor) == (1, True, 4)
    assert loader().num_workers == 0


def test_the_cache_of_the_device_is_emptied_in_every_nth_step(run, monkeypatch):
    emptied = []
    monkeypatch.setattr("distal.training.trainer.clear_device_cache", lambda: emptied.append(None))
    run(torch_empty_cache_steps=4)
    assert len(emptied) == 2  # of six steps in the first and the fifth, as transformers does
    run()
    assert len(emptied) == 2


def test_paired_objectives_refuse_unpaired_data(config, make_llama, make_samples, word_tokenizer):
    with pytest.raises(ConfigError, match="needs pairs"):
        AlignmentTrainer(
            make_llama(),
            args=config(objective="dpo"),
            train_dataset=make_samples(9),
            processing_class=word_tokenizer,
        )


def test_dropout_is_off_unless_asked_for(config, make_llama, make_pairs, word_tokenizer):
    model = make_llama(attention_dropout=0.3)
    AlignmentTrainer(model, args=config(), train_dataset=make_pairs(N_PAIRS), processing_class=word_tokenizer)
    assert model.model.layers[0].self_attn.attention_dropout == 0.0
    kept = make_llama(attention_dropout=0.3)
    AlignmentTrainer(
        kept,
        args=config(disable_dropout=False),
        train_dataset=make_pairs(N_PAIRS),
        processing_class=word_tokenizer,
    ).train()
    assert kept.model.layers[0].self_attn.attention_dropout == 0.3


def test_a_mixture_that_asks_for_its_router_loss_is_refused(run):
    """The loss that balances experts depends on which rows share a forward pass."""
    model = model_of(ARCHITECTURES["qwen3_moe"])
    with pytest.raises(ConfigError, match="output_router_logits: true, router_aux_loss_coef: 0.001"):
        run(model=model)
    model.config.output_router_logits = False
    assert run(model=model, max_steps=1).state.global_step == 1
