"""Every recipe is a valid configuration, and runs as its first lines say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from distal.objectives import describe_objective
from distal.workflow import resolve_options
from distal.workflow.resolve import resolved_mapping

# The name that every supported version of transformers knows is deprecated in the latest.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
ON_CPU = ["--use-cpu"]  # transformers refuses bf16 where it finds no GPU, unless told


def by_name(recipe: Path) -> str:
    return recipe.stem


def test_there_are_recipes() -> None:
    assert {"aot-paired-lora", "aot-unpaired", "dpo-baseline"} <= {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_recipe_is_accepted_and_means_what_it_says(recipe: Path) -> None:
    written = yaml.safe_load(recipe.read_text())
    resolved = resolved_mapping(resolve_options(recipe, ON_CPU))
    for key, value in written.items():
        if key == "report_to":
            value = [value]
        assert resolved[key] == value, key


@pytest.mark.parametrize("recipe", RECIPES, ids=by_name)
def test_command_on_top_is_accepted(recipe: Path) -> None:
    command = re.search(r"^#   (distal align .*)$", recipe.read_text(), re.MULTILINE)
    assert command is not None
    words = shlex.split(command[1])[2:]
    assert words[:2] == ["--config", f"recipes/{recipe.name}"]
    options = resolve_options(recipe, [*words[2:], *ON_CPU])
    assert options.training.output_dir == f"runs/{recipe.stem}"


def test_baseline_differs_from_its_counterpart_in_the_objective_alone() -> None:
    aot, dpo = (
        resolved_mapping(resolve_options(RECIPES[0].parent / f"{name}.yaml", ON_CPU))
        for name in ("aot-paired-lora", "dpo-baseline")
    )
    differing = {key for key in aot | dpo if aot.get(key) != dpo.get(key)}
    assert {"objective", "beta", "cost", "output_dir"} <= differing
    assert differing <= {"objective", "output_dir", *describe_objective("aot").options}
