"""Broken files of every format and kind: refused or counted, with no exception but Distal's own.

The cases are those of `benchmarks/fuzz_readers.py`, which runs many more.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_readers import Outcomes, make_case, report, run, run_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.randoms(use_true_random=False))
def test_broken_files(folder: Path, draw: random.Random) -> None:
    run_case(make_case(draw), folder)


def test_the_long_run_finds_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    found = run(200, 0, lambda done, _: seen.append(done))
    assert (seen, found.failures) == (list(range(1, 201)), [])
    monkeypatch.setattr("benchmarks.fuzz_readers.check_data", lambda source: 1 / 0)
    broken: Outcomes = run(20, 0, lambda done, _: None)
    assert 0 < len(broken.failures) == broken.by_outcome["failed"]
    assert "ZeroDivisionError" in broken.failures[0]["error"]
    record = report(broken, 20, 0, 1.0)
    assert sum(record["tables"]["outcomes"]["rows"][0]) == 20
    assert sum(sum(row[1:]) for row in record["tables"]["formats"]["rows"]) == 20
