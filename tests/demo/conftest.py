"""The packaged snippets, split once, and a quick demo, run once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from distal.demo.pipeline import DemoResult, run_demo
from distal.demo.snippets import Snippet, SnippetSplit, load_snippets, split_snippets


@pytest.fixture(scope="session")
def snippets() -> list[Snippet]:
    return load_snippets()


@pytest.fixture(scope="session")
def split(snippets: list[Snippet]) -> SnippetSplit:
    return split_snippets(snippets, 1000, seed=0)


@pytest.fixture
def told() -> Console:
    """A console that keeps what is printed; `told.file.getvalue()` is the text."""
    return Console(file=io.StringIO(), width=100)


@pytest.fixture(scope="session")
def quick_demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """A demo at small scale; one for all tests, since it takes seconds."""
    folder: Path = tmp_path_factory.mktemp("demo") / "run"
    return run_demo(folder, quick=True, console=Console(file=io.StringIO()))
