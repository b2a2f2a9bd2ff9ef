"""Groups of options: every verb that reads or scores offers the same ones, and passes on what was given."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from distal.cli.app import app
from distal.cli.grouping import grouped
from distal.cli.reading import Reading
from distal.cli.scoring import Scoring


@dataclass(frozen=True, kw_only=True)
class Box:
    """A group with a required option, a repeated one and a switch."""

    width: Annotated[int, typer.Option(help="Width.")]
    label: Annotated[list[str] | None, typer.Option(help="Labels.")] = None
    open: Annotated[bool, typer.Option("--open", help="Open.")] = False


def run(verb: Any, *words: str) -> Any:
    small = typer.Typer()
    small.command()(grouped(verb))
    return CliRunner().invoke(small, list(words))


def draw(name: Annotated[str, typer.Argument()], box: Box, times: int = 1) -> None:
    typer.echo(f"{name} {box} {times}")


def test_a_group_stands_for_its_options() -> None:
    shown = run(draw, "a", "--width=3", "--label=x", "--label=y", "--open", "--times=2").stdout
    assert shown == f"a {Box(width=3, label=['x', 'y'], open=True)} 2\n"
    assert run(draw, "a", "--width=3").stdout == f"a {Box(width=3)} 1\n"


@pytest.mark.parametrize(("words", "message"), [((), "Missing option"), (("--width=wide",), "valid integer")])
def test_required_options_and_types_are_checked_as_ever(words: tuple[str, ...], message: str) -> None:
    result = run(draw, "a", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_two_options_of_one_name_are_refused() -> None:
    def twice(box: Box, width: int = 1) -> None: ...

    with pytest.raises(ValueError, match="width"):
        grouped(twice)


def verbs(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every verb of the command line."""
    children = getattr(command, "commands", {})
    found = {} if children else {path: command}
    for name, child in children.items():
        found |= verbs(child, (*path, name))
    return found


@pytest.mark.parametrize(("group", "mark"), [(Reading, "from_grades"), (Scoring, "tokens_per_batch")])
def test_verbs_share_whole_groups(group: Any, mark: str) -> None:
    sharing = 0
    for path, verb in verbs(typer.main.get_command(app)).items():
        names = {option.name for option in verb.params}
        if mark in names:
            sharing += 1
            assert {field.name for field in fields(group)} <= names, path
    assert sharing >= 1
