"""Progress bars: everything passes through, on standard error alone, and short work passes in silence."""

from __future__ import annotations

import pytest

from distal.progress import follow, track


def test_items_pass_through_and_the_bar_ends_at_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(["a", "b"], "counting", weights=[1.0, 3.0])) == ["a", "b"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "counting" in shown.err
    assert "100%" in shown.err


@pytest.mark.parametrize(("description", "patience"), [(None, 0.0), ("waiting", 1e9)])
def test_silence(capsys: pytest.CaptureFixture[str], description: str | None, patience: float) -> None:
    items = follow(iter("abc"), description, total=3, work=len, patience=patience)
    assert "".join(items) == "abc"
    assert capsys.readouterr() == ("", "")


def test_no_estimate_where_the_total_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(follow(iter([5]), "reading", total=None, work=float)) == [5]
    shown = capsys.readouterr().err
    assert "reading" in shown
    assert "%" not in shown


def test_an_error_in_the_loop_ends_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for item in track([1, 0], "dividing"):
            _ = 1 / item

    with pytest.raises(ZeroDivisionError):
        work()
    assert "dividing" in capsys.readouterr().err
    assert list(track([1], "again")) == [1]  # a bar that was left running would refuse a second one
