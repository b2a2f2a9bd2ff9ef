"""The settings of a run offer every option of every objective."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers.training_args import OptimizerNames

from distal.errors import ConfigError
from distal.objectives import describe_objective, objective_names
from distal.training import AlignmentConfig


@pytest.mark.parametrize("name", objective_names())
def test_every_option_of_an_objective_is_a_setting(name: str) -> None:
    assert set(describe_objective(name).options) <= {
        field.name for field in dataclasses.fields(AlignmentConfig)
    }


def test_baseline_of_kto(tmp_path) -> None:
    def config(**options: Any) -> AlignmentConfig:
        return AlignmentConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)

    assert (
        config(objective="kto", kl_baseline="none").build_objective()
        != config(objective="kto").build_objective()
    )
    with pytest.raises(ConfigError, match="kl_baseline: 'mismatched' needs rewards .* set batch or none"):
        config(objective="kto", kl_baseline="mismatched")
    with pytest.raises(ConfigError, match="option 'kl_baseline' is not used by objective 'dpo', only by kto"):
        config(objective="dpo", kl_baseline="none")


def test_the_folder_of_tokenised_rows(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(**options: Any) -> AlignmentConfig:
        return AlignmentConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)

    monkeypatch.setenv("DISTAL_CACHE", str(tmp_path / "cache"))
    assert config().row_cache_dir == tmp_path / "cache"
    assert config(dataset_cache_dir="other").row_cache_dir == Path("other")
    assert config(dataset_cache=False).row_cache_dir is None
    with pytest.raises(ConfigError, match="dataset_cache_dir has no effect with dataset_cache: false"):
        config(dataset_cache=False, dataset_cache_dir="other")


@pytest.mark.parametrize(
    ("optim", "instead"),
    [
        ("galore_adamw_layerwise", "optim: galore_adamw, which"),
        ("galore_adamw_8bit_layerwise", "optim: galore_adamw_8bit, which"),
        ("galore_adafactor_layerwise", "optim: galore_adafactor, which"),
        ("apollo_adamw_layerwise", "optim: apollo_adamw, which"),
        ("lomo", "optim: adamw_8bit, or train an adapter"),
        ("adalomo", "optim: adamw_8bit, or train an adapter"),
    ],
)
def test_optimizers_that_step_in_the_backward_pass_are_refused(tmp_path, optim: str, instead: str) -> None:
    def config(name: Any) -> AlignmentConfig:
        return AlignmentConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, optim=name)

    for name in (optim, OptimizerNames(optim)):
        with pytest.raises(
            ConfigError, match=f"optim: '{optim}' is not supported: .* every backward pass.*{instead}"
        ):
            config(name)
    if not optim.endswith("lomo"):
        assert config(optim.removesuffix("_layerwise")).optim == optim.removesuffix("_layerwise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_accumulation_steps": 2}, "eval_accumulation_steps: 2 .* keeps no predictions"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches"),
        ({"eval_use_gather_object": True}, "eval_use_gather_object"),
        ({"include_for_metrics": ["loss"]}, "include_for_metrics"),
        ({"label_names": ["label"]}, "label_names"),
        ({"length_column_name": "n_tokens"}, "length_column_name: 'n_tokens' .* counted from the tokens"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config: split_batches: True"),
        ({"accelerator_config": {"dispatch_batches": False}}, "accelerator_config: dispatch_batches"),
        ({"accelerator_config": {"even_batches": False}}, "accelerator_config: even_batches"),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "accelerator_config: use_seedable_sampler"),
        ({"accelerator_config": {"non_blocking": True}}, "accelerator_config: non_blocking"),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
            "accelerator_config: gradient_accumulation_kwargs: .* global_batch_size",
        ),
        ({"dataloader_persistent_workers": True}, "no effect without dataloader_num_workers"),
        ({"dataloader_prefetch_factor": 4}, "no effect without dataloader_num_workers"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlignmentConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)
