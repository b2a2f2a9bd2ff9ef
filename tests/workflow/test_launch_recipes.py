"""Launch recipes: the launchers' own parsers accept them, and what they start is `distal align`."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from distal.training import AlignmentConfig
from distal.training.launch import check_launch
from distal.workflow import resolve_options
from distal.workflow.resolve import differing_keys, resolved_yaml
from tests.workflow.launches import (
    LAUNCH,
    REPOSITORY,
    check_align,
    commands,
    read_accelerate,
    read_torchrun,
    settings_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
CONFIGS = sorted(LAUNCH.glob("*.yaml"))
PAGES = [LAUNCH / "README.md", REPOSITORY / "docs" / "how-to" / "several-devices.md"]

SLURM = {"SLURM_JOB_ID": "81234", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"} | {
    "SLURM_CPUS_PER_TASK": "64"
}
RECORD = '#!/bin/sh\nprintf "%s\\n" "$@" > "$RECORD"\n'
STAND_INS = {
    "torchrun": RECORD,
    "python": RECORD,
    "srun": '#!/bin/sh\nwhile [ "$1" != torchrun ]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && printf "node7\\nnode8\\n"\n',
}


def name_of(path: Path) -> str:
    return path.name


class Shell:
    """Runs a script with stand-ins for the programs that it calls, and tells how it called the last one."""

    def __init__(self, folder: Path) -> None:
        self.programs, self.record = folder / "programs", folder / "record"
        self.programs.mkdir()
        for name, text in STAND_INS.items():
            (self.programs / name).write_text(text)
            (self.programs / name).chmod(0o755)

    def run(self, script: Path, words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "GPUS")}
        return subprocess.run(
            ["bash", str(script), *words],
            env={**clean, **variables, "PATH": path, "RECORD": str(self.record)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self, script: Path, words: list[str], **variables: str) -> list[str]:
        done = self.run(script, words, **variables)
        assert done.returncode == 0, done.stderr
        return self.record.read_text().splitlines()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_every_recipe_is_explained_and_shipped() -> None:
    explained = (LAUNCH / "README.md").read_text()
    for recipe in (*SCRIPTS, *CONFIGS):
        assert f"`{recipe.name}`" in explained
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert "/recipes" in build["sdist"]["include"]


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_shell_accepts_the_script(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text()


# What torchrun should read: nodes at least and at most, rendezvous, where the first node is.
EXPECTED = {
    "one-node.sh": (1, 1, None, None),  # --standalone: torchrun finds a port by itself
    "several-nodes.sh": (2, 2, "static", "10.0.0.1:29500"),
    "elastic.sh": (1, 4, "c10d", "10.0.0.1:29500"),
    "slurm.sbatch": (2, 2, "c10d", "node7:21234"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_torchrun_reads_what_the_script_means(shell: Shell, name: str) -> None:
    (variables, words), *_ = commands((LAUNCH / name).read_text())
    surroundings = SLURM if name.endswith("sbatch") else {}
    given = {**surroundings, **variables, "GPUS": "3"}
    called = shell.called(LAUNCH / name, words[2:], **given)
    assert ("--standalone" in called) == (name == "one-node.sh")
    config, command = read_torchrun(called)
    assert (config.min_nodes, config.max_nodes) == EXPECTED[name][:2]
    assert config.nproc_per_node == 3
    if "--standalone" not in called:
        assert (config.rdzv_backend, config.rdzv_endpoint) == EXPECTED[name][2:]
    if command[0] == "bash":  # a script that adds --resume; what it calls is Python
        command = shell.called(REPOSITORY / command[1], command[2:])
        assert command[3:5] == ["--output-dir", "runs/first"]
    check_align(command)


def test_a_script_says_which_variable_is_missing(shell: Shell) -> None:
    done = shell.run(LAUNCH / "several-nodes.sh", [], NODES="2")
    assert done.returncode
    assert "NODE_RANK: 0 on HEAD, then 1, 2" in done.stderr
    assert not shell.record.exists()


def test_a_process_resumes_where_there_is_a_run(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    words = [str(folder), "--config", "recipes/dpo-baseline.yaml"]
    fresh = shell.called(LAUNCH / "resumable.sh", words)
    assert fresh[-2:] == words[1:]
    assert "--resume" not in fresh
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    assert shell.called(LAUNCH / "resumable.sh", words) == [*fresh, "--resume"]


def test_slurm_puts_the_job_back_into_the_queue(shell: Shell, tmp_path: Path) -> None:
    """A signal while `srun` runs: the job is put back, and the script stays until `srun` has ended."""
    (shell.programs / "srun").write_text(
        '#!/bin/sh\nkill -USR1 "$PPID"; sleep 1; echo "step ended"; exit 7\n'
    )
    (shell.programs / "scontrol").write_text('#!/bin/sh\necho "scontrol $*"; echo node7\n')
    done = shell.run(LAUNCH / "slurm.sbatch", ["runs/first"], **SLURM)
    assert done.stdout.splitlines() == ["scontrol requeue 81234", "node7", "step ended"]
    assert done.returncode == 7


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_accelerate_reads_what_the_configuration_means(config: Path) -> None:
    settings = settings_of(config)
    parser_knows = set(vars(read_accelerate(["--config_file", str(config), "-m", "distal", "align"])[0]))
    for section in (settings.fsdp_config, settings.deepspeed_config):
        assert set(section) <= parser_knows, "accelerate would set, and nobody read"
    (_, words), *_ = commands(config.read_text())
    given, command = read_accelerate(words[2:])
    assert given.config_file == f"recipes/launch/{config.name}"
    assert (given.num_processes, given.num_machines) == (8, 1)
    assert given.mixed_precision == "no", "precision belongs to the run"
    check_align(command)


def launched(kind: str, **state: Any) -> Any:
    fsdp2 = "fsdp_plugin" in state and state["fsdp_plugin"].fsdp_version == 2
    return SimpleNamespace(
        distributed_type=SimpleNamespace(name=kind, value=kind),
        mixed_precision="no",
        is_fsdp2=fsdp2,
        parallelism_config=None,
        state=SimpleNamespace(**state),
    )


def test_distal_accepts_what_the_configurations_launch(tmp_path: Path) -> None:
    args = AlignmentConfig(output_dir=str(tmp_path), use_cpu=True)
    given, _ = read_accelerate(["--config_file", str(LAUNCH / "ddp.yaml"), "-m", "distal", "align"])
    assert given.multi_gpu
    assert not given.use_fsdp
    assert not given.use_deepspeed
    check_launch(launched("MULTI_GPU"), args)

    given, _ = read_accelerate(["--config_file", str(LAUNCH / "fsdp2.yaml"), "-m", "distal", "align"])
    assert given.use_fsdp
    given.main_process_port = 0
    with patch_environment(**prepare_multi_gpu_env(given)):
        plugin: Any = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    check_launch(launched("FSDP", fsdp_plugin=plugin), args)

    given, _ = read_accelerate(["--config_file", str(LAUNCH / "zero3.yaml"), "-m", "distal", "align"])
    assert given.use_deepspeed
    given.main_process_port = 0
    _, environment = prepare_deepspeed_cmd_env(given)
    with patch_environment(**environment):
        plugin = DeepSpeedPlugin()
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True
    assert plugin.zero3_init_flag is True
    check_launch(launched("DEEPSPEED", deepspeed_plugin=plugin), args)


def test_transformers_accepts_the_deepspeed_configuration(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    given, _ = read_accelerate(["--config_file", str(LAUNCH / "zero3.yaml"), "-m", "distal", "align"])
    given.main_process_port = 0
    with patch_environment(**prepare_deepspeed_cmd_env(given)[1]):
        config = HfTrainerDeepSpeedConfig(DeepSpeedPlugin().deepspeed_config)
    args = AlignmentConfig(output_dir=str(tmp_path), global_batch_size=48, max_grad_norm=0.7, use_cpu=True)
    config.trainer_config_process(args)
    config.trainer_config_finalize(args, SimpleNamespace(), 10)
    assert config.config["gradient_clipping"] == 0.7


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_documentation_are_accepted(shell: Shell, page: Path) -> None:
    found = 0
    for variables, words in commands(page.read_text("utf-8")):
        if words[:2] == ["accelerate", "launch"]:
            _, command = read_accelerate(words[2:])
        else:
            surroundings = SLURM if words[0] == "sbatch" else {}
            called = words[1:]
            if words[0] != "torchrun":
                given = {**surroundings, **variables, "GPUS": "2"}
                called = shell.called(REPOSITORY / words[1], words[2:], **given)
            _, command = read_torchrun(called)
            if command[0] == "bash":
                command = shell.called(REPOSITORY / command[1], command[2:])
        check_align(command)
        found += 1
    assert found


def test_a_run_may_ask_for_sharding_itself_and_be_repeated(tmp_path: Path) -> None:
    """The annotation that transformers gives `fsdp` does not say that it takes true."""
    config, again = tmp_path / "config.yaml", tmp_path / "distal.yaml"
    config.write_text("fsdp: true\nfsdp_config: { version: 2 }\n")
    words = ["--model=m", "--data=d", f"--output-dir={tmp_path}", "--report-to=none", "--use-cpu"]
    options = resolve_options(config, words)
    assert options.training.fsdp is True
    config_of_plugin: Any = options.training.fsdp_config
    assert config_of_plugin["version"] == 2
    again.write_text(resolved_yaml(options))
    assert not differing_keys(resolve_options(again, []), options)
