"""Rules about the source as a whole: direction of imports, lazy imports, sizes, and the public surface."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import distal

SOURCE = Path(distal.__file__).parent
# Everything may import the first row; each folder may import the rows above its own.
COMMON = ("errors", "progress", "types")
LAYERS = (
    "transport",
    "objectives",
    "caching",
    "data",
    "scoring",
    "training",
    "evaluation",
    "report",
    "workflow",
    "demo",
    "cli",
)
# The mathematics knows tensors and nothing else.
MATHEMATICS = ("transport", "objectives")
MATHEMATICS_MAY_IMPORT = {"distal", "numpy", "torch", *sys.stdlib_module_names}

MODULES = sorted(SOURCE.rglob("*.py"))
FOLDERS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def name_of(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports, at any depth."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from distal import data` imports distal.data; `from distal.data import x` imports distal.data.
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}" if origin == "distal" else origin


def part_of(dotted: str) -> str:
    """Folder or top-level module of Distal that a dotted name lies in; empty for the package itself."""
    return [*dotted.split("."), ""][1]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_upwards(path: Path) -> None:
    here = part_of(name_of(path))
    above = LAYERS[: LAYERS.index(here) + 1] if here in LAYERS else ("cli",) if here == "__main__" else ()
    allowed = {*COMMON, *above, "__version__"}
    wrong = [
        f"{path.name}:{line} imports {name}"
        for line, name in imported_modules(path)
        if name.split(".")[0] == "distal" and part_of(name) and part_of(name) not in allowed
    ]
    assert not wrong, f"{here or 'distal'} may import only {sorted(allowed)}: {wrong}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if part_of(name_of(path)) in MATHEMATICS], ids=name_of
)
def test_the_mathematics_imports_torch_and_numpy_only(path: Path) -> None:
    names = {name.split(".")[0] for _, name in imported_modules(path)}
    assert names <= MATHEMATICS_MAY_IMPORT


def test_every_folder_has_a_layer() -> None:
    assert set(FOLDERS) == set(LAYERS)
    assert {path.stem for path in SOURCE.glob("*.py")} == {*COMMON, "__init__", "__main__"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_names_resolve_and_are_documented(folder: str) -> None:
    package = importlib.import_module(f"distal.{folder}")
    assert package.__doc__, f"distal.{folder} has no docstring"
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert hasattr(package, name), f"distal.{folder}.__all__ names {name}, which does not exist"
        public = getattr(package, name)
        if inspect.isclass(public) or inspect.isfunction(public):  # an alias of a type carries no docstring
            assert public.__doc__, f"distal.{folder}.{name} has no docstring"


def test_all_is_not_empty_where_users_import() -> None:
    for folder in ("transport", "objectives", "data", "scoring", "training", "evaluation"):
        assert importlib.import_module(f"distal.{folder}").__all__


def test_every_module_can_be_imported() -> None:
    for module in pkgutil.walk_packages([str(SOURCE)], prefix="distal."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("distal", ("torch", "transformers", "numpy")),
        ("distal.errors", ("torch", "transformers")),
        ("distal.types", ("torch", "transformers")),
        ("distal.transport", ("transformers", "datasets", "matplotlib")),
        ("distal.objectives", ("transformers", "datasets", "matplotlib")),
        ("distal.cli", ("torch", "transformers", "datasets", "matplotlib")),
    ],
)
def test_heavy_libraries_are_imported_late(module: str, absent: tuple[str, ...]) -> None:
    code = f"import {module}, sys; print(*[name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{path} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            # A docstring with its example is no code: only what follows it counts.
            start = first.end_lineno if documented else node.lineno - 1
            length = (node.end_lineno or 0) - (start or 0)
            assert length <= 60, f"{path.name}:{node.lineno} {node.name} has {length} lines of code"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_say_what_they_are_for(path: Path) -> None:
    if path.stat().st_size:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"
