"""The package as a whole: what it exports and what it drags in."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import distal.objectives
import distal.transport

HEAVY = ("transformers", "accelerate", "datasets", "peft", "matplotlib", "scipy", "pandas")


def test_importing_the_mathematics_imports_torch_alone():
    script = "import sys, torch; before = set(sys.modules); import distal.objectives; print(*set(sys.modules) - before)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"distal.transport", "distal.objectives"} <= set(loaded)
    assert [name for name in loaded if name.split(".")[0] in HEAVY] == []
    others = {name.split(".")[1] for name in loaded if name.startswith("distal.")}
    assert others == {"transport", "objectives"}


@pytest.mark.parametrize("package", [distal.transport, distal.objectives], ids=["transport", "objectives"])
def test_every_exported_name_exists_and_is_documented(package: object):
    names: list[str] = package.__all__  # pyright: ignore[reportAttributeAccessIssue]
    assert names == sorted(names)
    for item in (getattr(package, name) for name in names):
        if inspect.isclass(item) or inspect.isfunction(item):
            assert (inspect.getdoc(item) or "").strip()
