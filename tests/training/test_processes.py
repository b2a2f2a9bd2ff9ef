"""Runs as real processes: killed and resumed, and shared by several ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

JOB = Path(__file__).parent / "job.py"


def start(*jobs: dict[str, Any], ranks=1):
    launcher = (
        [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *launcher, str(JOB), json.dumps(jobs)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def result(folder):
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file), json.loads((Path(folder) / "result.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, kind):
    """SIGKILL after step 7 of 12, in the middle of the second epoch; the last checkpoint is of step 6."""
    objective = "aot" if kind == "paired" else "aot_unpaired"
    config = {
        "objective": objective,
        "global_batch_size": 8,
        "micro_batch_size": 3,
        "max_steps": 12,
        "save_steps": 3,
    }
    job = {"kind": kind, "config": config, "cache": str(tmp_path / "cache")}

    undisturbed = start({**job, "output_dir": str(tmp_path / "whole")})
    assert undisturbed.returncode == 0, undisturbed.stderr
    killed = start({**job, "output_dir": str(tmp_path / "cut"), "die_at": 7})
    assert killed.returncode == -signal.SIGKILL
    # A checkpoint that was being written when the process died must not be taken.
    unfinished = tmp_path / "cut" / "checkpoint-7"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half a fi")
    resumed = start({**job, "output_dir": str(tmp_path / "cut"), "resume": True})
    assert resumed.returncode == 0, resumed.stderr
    assert "checkpoint-7 is skipped: it was not written to its end" in resumed.stderr

    (expected, _), (weights, _) = result(tmp_path / "whole"), result(tmp_path / "cut")
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[name], weights[name]) for name in expected), "not bitwise equal"


@pytest.mark.slow
def test_a_run_killed_on_one_process_goes_on_with_its_rows_on_two_and_back(tmp_path):
    """Killed in the middle of the second epoch of 5 steps; two ranks take over at step 6, one again at step 9."""
    config = {"global_batch_size": 9, "micro_batch_size": 2, "max_steps": 12, "save_steps": 3}
    job = {"config": config, "cache": str(tmp_path / "cache"), "dtype": "float64"}
    cut = {**job, "output_dir": str(tmp_path / "cut")}
    other = {**job, "output_dir": str(tmp_path / "other"), "config": {**config, "data_seed": 7}}
    killed = start({**job, "output_dir": str(tmp_path / "whole")}, other, {**cut, "die_at": 7})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    taken_over = start({**cut, "resume": True, "die_at": 10}, ranks=2)
    assert taken_over.returncode != 0
    assert "processes was 1, now 2" in taken_over.stderr
    finished = start({**cut, "resume": True})
    assert finished.returncode == 0, finished.stderr
    assert "processes was 2, now 1" in finished.stderr
    (whole, _), (weights, _), (otherwise, _) = (result(tmp_path / name) for name in ("whole", "cut", "other"))
    assert max((whole[key] - weights[key]).abs().max().item() for key in whole) <= 1e-10
    assert max((whole[key] - otherwise[key]).abs().max().item() for key in whole) > 1e-4, (
        "the oracle can fail"
    )


# 9 units a step, so that ranks hold different counts; of 28 pairs a single one is left for the last step of an epoch.
RUNS: dict[str, dict[str, Any]] = {
    "aot": {"n": 28},
    "aot, LoRA": {"lora": True},
    "aot, compiled": {"n": 28, "config": {"compile_blocks": True, "compile_backend": "aot_eager"}},
    "aot, evaluated on the way": {"config": {"eval_strategy": "steps", "eval_steps": 4}},
    "dpo": {"n": 28, "config": {"objective": "dpo"}},
    "aot_unpaired": {"kind": "unpaired", "config": {"objective": "aot_unpaired"}},
    "aot, streamed": {"n": 28, "config": {"order_statistics": "stream"}},
    "aot_unpaired, streamed": {
        "kind": "unpaired",
        "config": {"objective": "aot_unpaired", "order_statistics": "stream"},
    },
    "aot, sharded": {"n": 28, "fsdp": "FULL_STATE_DICT"},
    "aot, sharded LoRA": {"lora": True, "fsdp": "FULL_STATE_DICT"},
    "dpo, sharded": {"n": 28, "fsdp": "SHARDED_STATE_DICT", "config": {"objective": "dpo"}},
}
if find_spec("deepspeed"):  # it compiles a part of itself, which takes minutes the first time
    RUNS.update(
        {
            "aot, ZeRO-3": {"n": 28, "zero": 3, "dtype": "float32"},
            "dpo, ZeRO-2": {"n": 28, "zero": 2, "dtype": "float32", "config": {"objective": "dpo"}},
            "aot, ZeRO-3, LoRA": {"lora": True, "zero": 3, "dtype": "float32"},
        }
    )


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_another_number_of_ranks(tmp_path):
    """FSDP2 whose checkpoints hold a part of each rank: written by two, read by three.

    Of the three only the first has loaded the weights (`cpu_ram_efficient_loading`), and its verdict holds for all.
    """
    config = {"global_batch_size": 9, "micro_batch_size": 2, "max_steps": 6, "save_steps": 3}
    job = {"n": 28, "fsdp": "SHARDED_STATE_DICT", "dtype": "float64", "config": config}
    job |= {"cache": str(tmp_path / "cache")}
    done = start({**job, "output_dir": str(tmp_path / "two")}, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "three").mkdir()
    shutil.copytree(tmp_path / "two" / "checkpoint-3", tmp_path / "three" / "checkpoint-3")
    resumed = start({**job, "output_dir": str(tmp_path / "three"), "resume": True, "hollow": True}, ranks=3)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "processes was 2, now 3" in resumed.stderr
    (two, _), (three, _) = result(tmp_path / "two"), result(tmp_path / "three")
    # Llama's norms compute in float32 even here, which AdamW makes visible where a gradient is close to nothing.
    assert max((two[key] - three[key]).abs().max().item() for key in two) <= 1e-8


@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_one(tmp_path):
    """Data parallel over gloo, and FSDP2 as the Trainer sets it up through accelerate, in float64."""
    shared: dict[str, Any] = {"global_batch_size": 9, "micro_batch_size": 2, "max_steps": 6}
    shared |= {"logging_steps": 1, "save_strategy": "no"}
    jobs = {
        name: {"dtype": "float64", **run, "config": shared | run.get("config", {})}
        for name, run in RUNS.items()
    }
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        done = start(
            *(
                {**job, "output_dir": str(folder / name), "cache": str(folder / "cache")}
                for name, job in jobs.items()
            ),
            ranks=ranks,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "blocks are not compiled" not in done.stderr
    plain, streamed = (result(tmp_path / "1" / name)[0] for name in ("aot", "aot, streamed"))
    assert any((plain[key] - streamed[key]).abs().max() > 1e-4 for key in plain), "the option does nothing"
    for name in jobs:
        (one, log_one), (two, log_two) = result(tmp_path / "1" / name), result(tmp_path / "2" / name)
        assert one.keys() == two.keys()
        rounding = 1e-10 if jobs[name]["dtype"] == "float64" else 1e-6
        assert max((one[key] - two[key]).abs().max().item() for key in one) <= rounding, name
        for metric in ("loss", "rewards/margins", "dominance/auc", "grad_norm"):
            values = [[entry[metric] for entry in log["history"]] for log in (log_one, log_two)]
            assert values[0] == pytest.approx(values[1], abs=max(1e-6, 20 * rounding)), name
        for metric in ("eval_loss", "eval_rewards/chosen"):
            assert log_one["metrics"][metric] == pytest.approx(
                log_two["metrics"][metric], abs=20 * rounding
            ), name
