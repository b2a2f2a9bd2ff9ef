"""The dry run: what is foretold is what the run then does, and the trial leaves no file behind."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig

from distal.training import AlignmentConfig, AlignmentTrainer
from distal.training.forecast import forecast
from distal.training.peak import bytes_in_use, measured_peak


@pytest.fixture
def make_trainer(tmp_path, make_llama, make_pairs, word_tokenizer):
    def make(lora=False, **options):
        settings: dict[str, Any] = {
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "num_train_epochs": 3,
        } | options
        return AlignmentTrainer(
            make_llama(),
            args=AlignmentConfig(
                output_dir=str(tmp_path / "run"),
                reference_cache_dir=str(tmp_path / "cache"),
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                **settings,
            ),
            train_dataset=make_pairs(30),
            eval_dataset=make_pairs(6, seed=1),
            processing_class=word_tokenizer,
            peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if lora else None,
        )

    return make


def test_parts_known_by_hand(make_trainer, tmp_path):
    trainer = make_trainer(strategy="recompute")
    parameters = sum(p.numel() for p in trainer.model.parameters())
    told = forecast(trainer)
    assert told.steps == 12  # 30 pairs by 8 make 4 batches, three times
    assert told.memory["gradients"] == 4 * parameters
    assert (
        8 * parameters <= told.memory["optimizer"] <= 8 * parameters + 16 * 100
    )  # two moments, and step counters
    assert told.memory["weights"] >= 4 * parameters
    assert told.memory["kept by the strategy"] == 0
    assert told.peak_bytes == sum(told.memory.values())
    assert told.seconds_training == pytest.approx(12 * told.seconds_per_step)
    assert told.strategy == "recompute"
    assert not list((tmp_path / "run").iterdir())
    assert not (tmp_path / "cache").exists()
    assert json.loads(json.dumps(told.as_dict()))["seconds"] > 0


def test_what_a_strategy_keeps_is_foretold(make_trainer):
    trainer = make_trainer(lora=True, strategy="deferred")
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert forecast(trainer).memory["kept by the strategy"] == 8 * 4 * trained
    retained = forecast(make_trainer(strategy="retain"))
    assert retained.memory["kept by the strategy"] > 0
    chosen = forecast(make_trainer(memory_budget_gib=0))
    assert chosen.strategy.startswith("recompute: graphs of all")
    assert chosen.memory["kept by the strategy"] == 0


def test_activation_checkpointing_is_part_of_the_trial(make_trainer):
    trainer = make_trainer(gradient_checkpointing=True)
    forecast(trainer)
    assert trainer.model.is_activation_checkpointing or trainer.model.is_gradient_checkpointing


def test_peak_of_a_tensor():
    device = torch.device("cpu")
    before = bytes_in_use(device)
    with measured_peak(device) as peak:
        block = torch.ones(2**25)
        del block
    assert 2**27 - 2**20 <= peak.bytes - before <= 2**27 + 2**25  # Linux counts pages in small batches
    with measured_peak(device) as after:
        pass
    assert after.bytes < before + 2**26
