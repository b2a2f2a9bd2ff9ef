"""The files around the code agree with each other and with the code."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import distal
from distal.demo import load_snippets

REPOSITORY = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))["project"]


def requirement_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0].lower().replace("_", "-")


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest
    assert newest[1] == distal.__version__
    assert str(yaml.safe_load(read("CITATION.cff"))["version"]) == distal.__version__


def test_every_direct_dependency_is_pinned(project: dict[str, Any]) -> None:
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", read("constraints.txt"), re.MULTILINE))
    wanted = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    missing = {requirement_name(requirement) for requirement in wanted} - set(pinned)
    assert not missing
    assert not [version for version in pinned.values() if "+" in version], "builds depend on the machine"


def test_the_same_checks_before_a_commit_and_in_ci() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    called = {hook["entry"].removeprefix("make ") for repo in hooks for hook in repo["hooks"]}
    checks = re.search(r"^check: ([a-z ]+)", read("Makefile"), re.MULTILINE)
    assert checks
    assert called == set(checks[1].split())
    assert [line for line in read(".ci/run").splitlines() if line.startswith("make")] == [
        "make test",
        "make check",
    ]


def test_actions_are_pinned_to_commits() -> None:
    uses = re.findall(r"uses: (\S+)", read(".github/workflows/ci.yml"))
    assert uses
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in uses)


def test_workflow_runs_the_make_targets() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    called = {step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")}
    assert {"setup", "test", "check", "wheel", "demo"} <= called


def test_the_review_snippets_are_attributed() -> None:
    notice = read("NOTICE")
    assert "Bo Pang and Lillian Lee" in notice
    assert "CC BY 4.0" in notice
    assert f"{len(load_snippets()):,} sentences" in notice


def test_python_versions_agree(project: dict[str, Any]) -> None:
    lowest = project["requires-python"].removeprefix(">=")
    assert tomllib.loads(read("pyproject.toml"))["tool"]["pyright"]["pythonVersion"] == lowest
    assert f"py{lowest.replace('.', '')}" in read("pyproject.toml")
    major, minor = lowest.split(".")
    assert f"({major}, {minor})" in read("Makefile")
    assert f"({major}, {minor})" in read("scripts/setup_venv.py")


def test_the_set_up_explains_a_python_that_is_too_old(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    for python, expected in (("", "Python 3.11 or newer"), (str(tmp_path / "none"), "no such program")):
        command = ["make", "--no-print-directory", "python", f"PYTHON={python}"]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert result.returncode
        assert expected in result.stderr
