"""The documentation says what is so: its Python runs, its commands, options and targets exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from distal.cli.app import app

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "SECURITY.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]


def blocks(page: Path, language: str) -> Iterator[str]:
    """Fenced code blocks of one language."""
    for found in re.finditer(
        rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield found[1]


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Calls of a program in code blocks and in inline code, as words."""
    text = page.read_text("utf-8")
    lines = [line for block in blocks(page, "(?:console|bash|sh|text|)") for line in block.splitlines()]
    lines += re.findall(rf"`({program} [^`\n]*)`", text)
    for line in lines:
        if line.startswith(f"{program} "):
            yield shlex.split(line, comments=True)[1:]


def click_commands() -> dict[tuple[str, ...], Any]:
    """Every verb of the command line by its path."""
    found: dict[tuple[str, ...], Any] = {}

    def visit(path: tuple[str, ...], command: Any) -> None:
        found[path] = command
        for name, child in getattr(command, "commands", {}).items():
            visit((*path, name), child)

    visit((), typer.main.get_command(app))
    return found


VERBS = click_commands()


def verb_of(words: list[str]) -> tuple[str, ...]:
    """The longest known path at the beginning of a call."""
    path: tuple[str, ...] = ()
    for word in words:
        if (*path, word) not in VERBS:
            break
        path = (*path, word)
    return path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_commands_and_their_options_exist(page: Path) -> None:
    from distal.workflow.schema import align_schema

    schema = align_schema()
    for words in commands(page, "distal"):
        if words[0] == "VERB":
            continue
        verb = verb_of([word for word in words if word != "--debug"])
        shown = shlex.join(["distal", *words])
        assert verb or words[0].startswith("--"), f"{shown}: no such verb"
        assert not hasattr(VERBS[verb], "commands") or len(words) == len(verb) or words[0] == "--debug", (
            f"{shown}: no such verb"
        )
        known = {name for option in VERBS[verb].params for name in option.opts} | {"--help", "-h"}
        for word in words:
            name = word.partition("=")[0]
            if not name.startswith("--"):
                continue
            if verb == ("align",):
                key = name.removeprefix("--").replace("-", "_")
                key = key if key in schema else key.removeprefix("no_")
                listed = key in schema or name in known
                assert listed, f"{shown}: align has no option {name}"
                assert schema.why_not(key) is None or name in known, f"{shown}: {name}"
            else:
                assert name in known or name == "--debug", f"{shown}: no option {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_make_targets_exist(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for words in commands(page, "make"):
        for word in words:
            name, given, _ = word.partition("=")
            if given:
                assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), f"make has no variable {name}"
            else:
                assert name in targets, f"make has no target {name}"


def test_yaml_examples_are_accepted(tmp_path: Path) -> None:
    from distal.workflow import resolve_options

    found = 0
    for page in PAGES:
        for block in blocks(page, "yaml"):
            given = yaml.safe_load(block)
            config = tmp_path / "example.yaml"
            config.write_text(yaml.safe_dump({"model": "m", "data": "d", **given}), encoding="utf-8")
            resolve_options(config, [f"--output-dir={tmp_path}", "--report-to=none"])
            found += 1
    assert found


def test_python_page_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_llama: Callable[..., Any],
    word_tokenizer: Any,
    make_pairs: Callable[..., list[dict[str, str]]],
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTAL_CACHE", str(tmp_path / "cache"))
    make_llama().save_pretrained("MODEL")
    word_tokenizer.save_pretrained("MODEL")
    for name, seed in (("preferences.jsonl", 0), ("held-out.jsonl", 1)):
        lines = [json.dumps(row) for row in make_pairs(80, seed=seed)]
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    code = "\n".join(blocks(REPOSITORY / "docs" / "how-to" / "python.md", "python"))
    names: dict[str, Any] = {}
    exec(compile(code, "docs/how-to/python.md", "exec"), names)
    assert names["scores"].policy_chosen.numel() == 2
    assert json.loads(Path("runs/python/dominance.json").read_text("utf-8"))["kind"] == "paired"
    assert Path("runs/python/final/model.safetensors").exists()


SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY / "src")))
def test_examples_are_rendered_as_code(source: Path) -> None:
    """Python prompts outside a section `Examples:` would be nested quotations on the page, without their line ends."""
    section = ""
    for line in source.read_text("utf-8").splitlines():
        heading = re.fullmatch(r"\s+([A-Z][a-z]+):", line)
        section = heading[1] if heading else "" if '"""' in line else section
        assert section == "Examples" or not re.match(r"\s+>>> ", line), f"{source.name}: {line}"
