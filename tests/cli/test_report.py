"""`distal report`: what the verb writes, prints and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.report.run_folders import make_run

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "run")


def test_a_page_is_written(distal: Run, run: Path, tmp_path: Path) -> None:
    result = distal("report", run)
    assert result.exit_code == 0
    assert "run: " in result.output
    assert "Written: report.html" in result.output
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "A title &amp; more" in distal_page(distal, run, "--title", "A title & more", "--overwrite")


def distal_page(distal: Run, run: Path, *words: str) -> str:
    assert distal("report", run, *words).exit_code == 0
    return Path("report.html").read_text("utf-8")


def test_an_existing_file_stays(distal: Run, run: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("mine", encoding="utf-8")
    refused = distal("report", run, "-o", target)
    assert refused.exit_code == 6
    assert "exists already" in refused.output
    assert target.read_text("utf-8") == "mine"
    assert distal("report", run, "-o", tmp_path).exit_code == 6
    assert distal("report", run, "-o", target / "below.html").exit_code == 6
    assert distal("report", run, "-o", target, "--overwrite").exit_code == 0
    assert target.stat().st_size > 1e6


def test_json_and_nothing_else(distal: Run, run: Path, tmp_path: Path) -> None:
    result = distal("report", run, "--json")
    said = json.loads(result.stdout)
    assert said["schema"] == "distal.report/1"
    assert said["runs"][0]["name"] == "run"
    assert not (tmp_path / "report.html").exists()
    assert json.loads(distal("report", run, "--json", "-o", "page.html").stdout) == said
    assert (tmp_path / "page.html").exists()
    assert distal("report", run, "--json", "--overwrite").exit_code == 2


def test_a_broken_file_shows_in_the_exit_code(distal: Run, run: Path, tmp_path: Path) -> None:
    (run / "dominance.json").write_text("{", encoding="utf-8")
    result = distal("report", run)
    assert result.exit_code == 3
    assert "Not shown in full: run/dominance.json: is no JSON" in result.output
    assert (tmp_path / "report.html").exists()


def test_what_is_no_run(distal: Run, tmp_path: Path) -> None:
    assert distal("report").exit_code == 2
    missing = distal("report", tmp_path / "absent")
    assert missing.exit_code == 3
    assert "there is no folder" in missing.output
