"""The first law over processes: the gradient of an optimizer batch does not depend on how many ranks share it.

Oracle: the same batch in one process. One launch per world size runs all cases: for DDP, for FSDP2 with gradients
exchanged in the last micro-batch or in each, and for every strategy with a LoRA adapter under DDP. A rank that waits
for ever fails by the group's time limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

JOB = Path(__file__).parent / "world_size_job.py"


def launch(world, output):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={world}", str(JOB), str(output)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(output, weights_only=False)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    results = launch(1, tmp_path_factory.mktemp("one") / "results.pt")
    return {(dtype, name, case): result for (dtype, _, name, case), result in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_gradient_metrics_and_coefficients_are_those_of_one_process(tmp_path, one_process, world):
    results = launch(world, tmp_path / "results.pt")
    assert {(dtype, name, case) for dtype, _, name, case in results} == set(one_process)
    assert len({how for _, how, _, _ in results}) == 3 + 5, (
        "DDP, FSDP2 synchronised two ways; five strategies"
    )
    for (dtype, how, name, case), (loss, metrics, coefficients, grads) in results.items():
        expected_loss, expected_metrics, expected_coefficients, expected = one_process[dtype, name, case]
        where = f"{name}, {case}, {how}, {dtype}, {world} ranks"
        tolerance = 1e-10 if dtype == "torch.float64" else 1e-5
        torch.testing.assert_close(loss, expected_loss, rtol=tolerance, atol=tolerance, msg=where)
        assert metrics == pytest.approx(expected_metrics, rel=tolerance, abs=tolerance * 10), where
        scale = expected_coefficients.abs().max().item()
        assert (coefficients - expected_coefficients).abs().max().item() <= tolerance * scale, where
        assert grads.keys() == expected.keys(), where
        scale = max(g.abs().max().item() for g in expected.values())
        assert scale > 0
        for parameter, gradient in grads.items():
            off = (gradient - expected[parameter]).abs().max().item()
            assert off <= tolerance * scale, f"{where}: {parameter} is off by {off / scale:.2g}"
