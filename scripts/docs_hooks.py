"""Hooks of the documentation build: what can be read off the code is read off the code, not written twice.

A page may hold one of these marks on a line of its own:

- `{{ help VERB }}`: what `distal VERB --help` prints;
- `{{ options SECTION }}`: the table of `distal align` options of one section (Model, Data, LoRA, Training);
- `{{ objectives }}`: the objectives, what they need and where they come from;
- `{{ objective_options }}`: their options;
- `{{ formats }}`: the formats of preference data, with licence and source of the public sets;
- `{{ errors }}`: the exception classes and the exit codes of the command line;
- `{{ results NAME }}` or `{{ results NAME TABLE }}`: a table of `benchmarks/NAME.json`, as its script wrote it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^\{\{ (\w+)(?: ([^}]*?))? \}\}$", re.MULTILINE)
CONCEPTS = ROOT / "docs" / "concepts"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of docs/concepts/ before the reference, in the order in which their index links to them."""
    pages = [page.name for page in CONCEPTS.glob("*.md")]
    if pages:
        index = (CONCEPTS / "index.md").read_text(encoding="utf-8")
        # A page that the index does not link to (-1) comes last.
        pages.sort(key=lambda name: (name != "index.md", index.find(f"({name})") % (len(index) + 1), name))
        place = next(i for i, entry in enumerate(config["nav"]) if "Reference" in entry)
        config["nav"].insert(place, {"Concepts": [f"concepts/{name}" for name in pages]})
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page; an unknown one fails the build."""
    return MARK.sub(lambda found: WRITERS[found[1]](found[2] or ""), markdown)


@cache
def help_text(verb: str) -> str:
    """What `distal VERB --help` prints, 100 columns wide and without colour."""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-c", "from distal.cli import main; main()", *verb.split(), "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    lines = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return f"```text\n{lines.replace('Usage: -c', 'Usage: distal')}\n```"


def options_table(section: str) -> str:
    """Distal's own options of one section, with type, default and meaning."""
    from distal.workflow.schema import align_schema, describe_type

    rows: list[tuple[str, ...]] = [("option", "type", "default", "meaning")]
    for option in align_schema().own(section):
        default = "required" if option.required else "" if option.default is None else f"`{option.default}`"
        kind = describe_type(option.annotation).removesuffix(" or null")
        rows.append((f"`{option.name}`", kind, default, option.help))
    return markdown_table(rows)


def objectives_table(_: str) -> str:
    """The objectives with the data they need and where they come from."""
    from distal.objectives import describe_objective, objective_names

    rows: list[tuple[str, ...]] = [
        ("objective", "data", "couples the batch", "source", "default beta", "from")
    ]
    for name in objective_names():
        info = describe_objective(name)
        beta = "" if info.default_beta is None else f"{info.default_beta:g}"
        couples = "yes" if info.couples_batch else "no"
        rows.append((f"`{name}`", info.needs, couples, info.source, beta, info.beta_source or ""))
    return markdown_table(rows)


def objective_options_table(_: str) -> str:
    """The options of the objectives, each with what it means to whom."""
    from distal.objectives import describe_objective, objective_names

    users: dict[tuple[str, str], list[str]] = {}
    for name in objective_names():
        for option, meaning in describe_objective(name).options.items():
            users.setdefault((option, meaning), []).append(f"`{name}`")
    rows: list[tuple[str, ...]] = [("option", "of", "meaning")]
    rows += [(f"`{option}`", ", ".join(names), meaning) for (option, meaning), names in users.items()]
    return markdown_table(rows)


def formats_table(_: str) -> str:
    """The formats of preference data."""
    from distal.data import FORMATS

    rows: list[tuple[str, ...]] = [("format", "kind", "what it is", "licence and source")]
    rows += [(f"`{form.name}`", form.kind, form.title, str(form.origin)) for form in FORMATS.values()]
    return markdown_table(rows)


def errors_table(_: str) -> str:
    """Exit codes, the exception behind each, and what it means."""
    from distal import errors

    rows: list[tuple[str, ...]] = [("exit code", "exception", "meaning"), ("0", "", "done")]
    classes: list[type[errors.DistalError]] = [getattr(errors, name) for name in errors.__all__]
    for error in sorted(classes, key=lambda item: (item.exit_code, item.__name__)):
        meaning = (error.__doc__ or "").strip().splitlines()[0]
        code = "" if error is errors.DistalError else str(error.exit_code)
        rows.append((code, f"`{error.__name__}`", meaning))
    rows.append(("1", "", "an error that is Distal's own; please report it with its traceback"))
    rows.append(("130", "`KeyboardInterrupt`", "interrupted with Ctrl-C"))
    return markdown_table(rows)


def results_table(words: str) -> str:
    """A table of numbers that a benchmark script wrote."""
    name, _, part = words.partition(" ")
    record = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    table = record["tables"][part] if part else record
    rows = [tuple(table["header"])]
    rows += [tuple(f"{x:.3g}" if isinstance(x, float) else str(x) for x in row) for row in table["rows"]]
    return markdown_table(rows)


def markdown_table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table with its first row as the head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


WRITERS: dict[str, Callable[[str], str]] = {
    "help": help_text,
    "options": options_table,
    "objectives": objectives_table,
    "objective_options": objective_options_table,
    "formats": formats_table,
    "errors": errors_table,
    "results": results_table,
}
