"""The settings of a run offer every option of every objective."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

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
