"""What all verbs share: help, version, debug, and the small verbs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

import distal as package
from distal.cli.app import app as cli
from distal.errors import CacheError, ConfigError, DataError, ModelError, NonFiniteError, OutputError

Run = Callable[..., Result]


def test_help_lists_the_verbs_and_no_others(distal: Run) -> None:
    result = distal("--help")
    assert result.exit_code == 0
    for verb in ("align", "score", "evaluate", "cache", "demo", "env"):
        assert verb in result.stdout
    for later in ("recipes",):
        assert later not in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom distal.cli import app\n"
        "for words in ('--help', 'evaluate dominance --help', 'demo --help', 'score --help', 'cache ls',"
        " '--version'):\n"
        "    assert CliRunner().invoke(app, words.split()).exit_code == 0\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'matplotlib')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version(distal: Run) -> None:
    assert distal("--version").stdout == f"distal {package.__version__}\n"


def test_align_help_groups_options_with_defaults(distal: Run) -> None:
    result = distal("align", "--help")
    assert result.exit_code == 0
    positions = [
        result.stdout.index(f"\n{title}\n") for title in ("Run", "Model", "Data", "LoRA", "Training")
    ]
    assert positions == sorted(positions)
    for option in (
        "--model",
        "--reference",
        "--data",
        "--eval-size",
        "--lora-r",
        "--objective",
        "--global-batch-size",
    ):
        assert f" {option} " in result.stdout
    for line in result.stdout.splitlines():
        if line.strip().startswith("--lora-r "):
            assert "16" in line
    assert "Every field of transformers.TrainingArguments" in result.stdout
    assert "--per-device-train-batch-size" not in result.stdout


def test_unknown_verb(distal: Run) -> None:
    result = distal("aling")
    assert result.exit_code == 2
    assert "No such command 'aling'" in result.stderr


def test_environment(distal: Run) -> None:
    facts = json.loads(distal("env", "--json").stdout)
    assert facts["distal"] == package.__version__
    assert facts["torch"] == metadata.version("torch")
    assert facts["peft"] == metadata.version("peft")
    text = distal("env").stdout
    assert metadata.version("torch") in text
    assert str(Path.home()) not in text


def test_demo_passes_its_options_on(distal: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "distal.demo.run_demo",
        lambda output, *, seed, quick: calls.append((output, seed, quick)),
        raising=False,
    )
    assert distal("demo").exit_code == 0
    assert distal("demo", "--output", tmp_path, "--seed", 7, "--quick").exit_code == 0
    assert calls == [(Path("runs/demo"), 0, False), (tmp_path, 7, True)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("boom"), 2),
        (DataError("boom"), 3),
        (ModelError("boom"), 4),
        (NonFiniteError("boom"), 5),
        (OutputError("boom"), 6),
        (CacheError("boom"), 7),
        (OSError(28, "No space left on device"), 6),
        (torch.OutOfMemoryError("CUDA out of memory"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_a_message_and_an_exit_code(
    distal: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("distal.workflow.environment.environment", fail)
    plain = distal("env")
    assert plain.exit_code == code
    assert plain.stderr.startswith("Error: ")
    assert "Traceback" not in plain.stderr
    assert plain.stdout == ""
    debug = distal("--debug", "env")
    assert debug.exit_code == code
    assert "Traceback" in debug.stderr
    assert ", in fail" in debug.stderr


def test_errors_of_our_own_keep_their_traceback(distal: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("distal.workflow.environment.environment", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        distal("env")


def verbs(app: Any) -> Iterator[tuple[str, Any]]:
    """Every verb of the application, with the words that call it."""
    for command in app.registered_commands:
        yield command.name, command
    for group in app.registered_groups:
        for name, command in verbs(group.typer_instance):
            yield f"{group.name} {name}", command


@pytest.mark.parametrize("words", [words for words, _ in verbs(cli) if words != "align"])
def test_help_says_every_word_of_the_docstring_and_of_the_options(
    distal: Run, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square brackets are markup to the help, and would vanish; ends of lines inside paragraphs would stay."""
    monkeypatch.setenv("COLUMNS", "400")
    text = distal(*words.split(), "--help").stdout
    command = dict(verbs(cli))[words]
    for paragraph in inspect.cleandoc(command.callback.__doc__).split("\n\n"):
        assert any(paragraph.replace("\n", " ") == line.strip() for line in text.splitlines())
    for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
        for option in getattr(parameter.annotation, "__metadata__", ()):
            assert option.help in text
