"""Trainers on a tiny model, whole runs and interrupted ones."""

from __future__ import annotations

from typing import Any

import pytest

from distal.training import AlignmentConfig, AlignmentTrainer
from tests.training.runs import N_PAIRS, STEPS, StopAfter


@pytest.fixture
def build(tmp_path, make_llama, make_pairs, word_tokenizer):
    """A trainer on a tiny model; `stop` ends it early, `name` is its folder."""

    def make(
        name="run",
        *,
        stop=None,
        model=None,
        data=None,
        eval_data=None,
        peft_config=None,
        ref_model=None,
        **options,
    ):
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / name),
            "reference_cache_dir": str(tmp_path / "cache"),
            "global_batch_size": 8,
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "beta": 0.1,
            "micro_batch_size": 3,
            "use_cpu": True,
            "report_to": "none",
            "save_steps": 2,
            "disable_tqdm": True,
            "logging_steps": 1,
        }
        return AlignmentTrainer(
            model if model is not None else make_llama(),
            ref_model,
            args=AlignmentConfig(**(settings | options)),
            train_dataset=data if data is not None else make_pairs(N_PAIRS),
            eval_dataset=eval_data,
            processing_class=word_tokenizer,
            peft_config=peft_config,
            callbacks=[StopAfter(stop)] if stop is not None else None,
        )

    return make


@pytest.fixture
def interrupted(build):
    """A run that was stopped at step 4 of 9, in the second epoch; its checkpoint."""

    def stop(**options):
        build(stop=4, **options).train()

    return stop
