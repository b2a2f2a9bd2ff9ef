"""Who speaks when several processes fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import typer
from typer.testing import Result

from distal.cli import reporting
from distal.cli.reporting import reported
from distal.errors import DataError


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a process waited for the launcher to end it; no time passes."""
    spans: list[float] = []
    monkeypatch.setattr(reporting.time, "sleep", spans.append)
    return spans


def code_of(error: BaseException) -> int:
    with pytest.raises(typer.Exit) as raised, reported(debug=False):
        raise error
    return raised.value.exit_code


def test_the_first_process_speaks_at_once(waited: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(DataError("line 3 is broken")) == 3
    assert capsys.readouterr().err == "Error: line 3 is broken\n"
    assert waited == []


def test_another_one_waits_and_says_which_it_is(
    waited: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert code_of(DataError("line 3 is broken")) == 3
    assert capsys.readouterr().err == "Error (process 3 of 8, counted from 0): line 3 is broken\n"
    assert waited == [reporting.PATIENCE]


def test_an_interruption_is_told_by_the_first_one_alone(
    waited: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(KeyboardInterrupt("resume with ...")) == 130
    monkeypatch.setenv("RANK", "1")
    assert code_of(KeyboardInterrupt("resume with ...")) == 130
    assert capsys.readouterr().err == "Error: resume with ...\n"
    assert waited == []


def test_whoever_lost_contact_lets_the_one_that_failed_speak(
    waited: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError(
        "[../gloo/transport/tcp/pair.cc:552] Connection closed by peer [127.0.0.1]:8000\nmore"
    )
    assert code_of(error) == 1
    message = capsys.readouterr().err
    assert "lost contact with the other processes of this run" in message
    assert "more" not in message
    assert waited == [2 * reporting.PATIENCE]


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="our own"), reported(debug=False):
        raise RuntimeError("our own")


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        ("score --model m --data d -o s.parquet --max-length many", "--max-length", "'many'"),
        ("evaluate dominance --model m --data d --order 3", "--order", "'3'"),
        ("evaluate dominance --model m --data d --threshold high", "--threshold", "'high'"),
    ],
)
def test_wrong_values_of_options_are_named(
    distal: Callable[..., Result], words: str, option: str, value: str
) -> None:
    result = distal(*words.split())
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr
    assert value in result.stderr.split("Invalid value", 1)[1]
