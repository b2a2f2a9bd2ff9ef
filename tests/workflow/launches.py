"""Reads what people type to launch processes, with the launchers' own parsers."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from torch.distributed.run import config_from_args, get_args_parser

from distal.workflow import resolve_options
from distal.workflow.schema import align_schema
from distal.workflow.sources import parse_command_line

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "recipes" / "launch"

_SWITCHES_OF_ALIGN = {"--resume", "--overwrite", "--dry-run", "--json"}


def read_torchrun(words: list[str]) -> tuple[Any, list[str]]:
    """What torchrun makes of its words: its launch configuration, and the command of each process."""
    given = get_args_parser().parse_args(words)
    config, _, _ = config_from_args(given)
    start = ["-m"] if given.module else []
    return config, [*start, given.training_script, *given.training_script_args]


def read_accelerate(words: list[str]) -> tuple[Namespace, list[str]]:
    """What `accelerate launch` makes of its words, the configuration file included, and the command."""
    given = launch_command_parser().parse_args(words)
    defaults: Any
    given, defaults, _ = _validate_launch_command(given)
    given.deepspeed_fields_from_accelerate_config = ",".join((defaults or given).deepspeed_config or ())
    return given, ["-m"] * given.module + [given.training_script, *given.training_script_args]


def settings_of(config_file: Path) -> Any:
    """A configuration file as accelerate's own loader reads it."""
    return load_config_from_file(str(config_file))


def check_align(command: list[str]) -> None:
    """Assert that a command is `distal align` with options that exist, and that suit its file where that is at hand."""
    assert command[:3] == ["-m", "distal", "align"], command
    words = [word for word in command[3:] if word not in _SWITCHES_OF_ALIGN]
    config = None
    if "--config" in words:
        place = words.index("--config")
        config = REPOSITORY / words[place + 1]
        del words[place : place + 2]
    if config is not None and config.exists():
        resolve_options(config, [*words, "--use-cpu"])  # bf16 is refused where there is no GPU, unless told
        return
    schema = align_schema()
    given, problems = parse_command_line(words, is_known=schema.__contains__, is_switch=schema.is_switch)
    problems += [f"{option.key}: {reason}" for option in given if (reason := schema.why_not(option.key))]
    assert not problems, problems


def commands(text: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Launching commands in comments and fenced blocks: variables in front of each, and its words."""
    joined = re.sub(r"\\\n\s*", "", text)
    for line in joined.splitlines():
        line = re.sub(r"^#\s+", "", line)
        if not re.match(r"([A-Z_]+=\S+ )*(torchrun|accelerate launch|bash recipes/\S+|sbatch) ", line):
            continue
        words = shlex.split(line, comments=True)
        variables = {}
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        yield variables, words
