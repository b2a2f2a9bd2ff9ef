"""Options of the strategies: what they mean in bytes and types, and where they would have no effect."""

from __future__ import annotations

import pytest
import torch

from distal.errors import ConfigError
from distal.training import AlignmentConfig


def config(tmp_path, **options):
    return AlignmentConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)


def test_units(tmp_path):
    assert config(tmp_path).memory_budget is None
    assert config(tmp_path, memory_budget_gib=0).memory_budget == 0
    assert config(tmp_path, memory_budget_gib=1.5).memory_budget == 1610612736
    assert config(tmp_path).unit_gradient_dtype is None
    assert config(tmp_path, deferred_dtype="bfloat16").unit_gradient_dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_budget_gib": -1.0}, "memory_budget_gib: expected a number"),
        ({"memory_budget_gib": float("nan")}, "memory_budget_gib: expected a number"),
        ({"memory_budget_gib": 1.0, "strategy": "recompute"}, "memory_budget_gib has no effect"),
        ({"deferred_dtype": "bfloat"}, "did you mean 'bfloat16'"),
        ({"deferred_dtype": "bfloat16", "strategy": "retain"}, "deferred_dtype has no effect"),
        ({"strategy": "defered"}, "did you mean 'deferred'"),
    ],
)
def test_mistakes(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **options)
