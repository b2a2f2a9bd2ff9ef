"""The commands in the first lines of the recipes, run as they stand there on a tiny model and small files."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.cli.conftest import write_rows

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def header_command(recipe: Path) -> list[str]:
    """The words of the first command in a recipe's comment."""
    command = re.search(r"^#   distal (align .*)$", recipe.read_text("utf-8"), re.MULTILINE)
    assert command is not None
    return shlex.split(command[1])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_command_in_the_header_can_start(
    distal: Callable[..., Result],
    make_pairs: Callable[..., Any],
    make_samples: Callable[..., Any],
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: Path,
) -> None:
    """The hub's models and data are out of reach: local ones take their place, as the headers say they may."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER, "recipes")
    words = header_command(recipe)
    if "--data" not in words:
        words += ["--data", "my-pairs.jsonl"]
    make = make_samples if "unpaired" in recipe.stem else make_pairs
    for option in ("--data", "--eval-data"):
        if option in words:
            path = Path(words[words.index(option) + 1])
            path.parent.mkdir(exist_ok=True)
            write_rows(path, make(200, seed=len(option)))
    if "--model" in words:
        shutil.copytree(model_folder, words[words.index("--model") + 1])
    else:
        words += ["--model", str(model_folder)]
    result = distal(*words, "--use-cpu", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Nothing was written" in result.stdout
    if "eval_split" in recipe.read_text("utf-8"):
        assert "note: eval_split: test (recipes/" in result.stdout
        assert "is left out; --eval-split names a split of my-" in result.stdout


def test_split_of_a_single_file_says_how_to_leave_it_out(
    align: Callable[..., Result], tmp_path: Path
) -> None:
    result = align("--eval-split=test")
    assert result.exit_code == 2
    assert "leave it out (--split null or --eval-split null" in " ".join(result.stderr.split())
    config = tmp_path / "run.yaml"
    config.write_text("split: train\neval_split: test\n")
    result = align("--config", config, "--split", "null", "--eval-split", "null", "--dry-run")
    assert result.exit_code == 0, result.output
