"""Pairs of answers, and what a served judge says about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from distal.evaluation.judging import Judge, Pair

SHOWN = re.compile(r"<answer_a>\n(.*?)\n</answer_a>\n\n<answer_b>\n(.*?)\n</answer_b>", re.DOTALL)


def longer(asked: dict[str, Any]) -> str:
    """A judge that prefers the longer answer."""
    found = SHOWN.search(asked["messages"][0]["content"])
    assert found
    first, second = map(len, found.groups())
    return "A" if first > second else "B" if first < second else "TIE"


class Silent:
    """A judge that was asked before."""

    stored = False

    def __init__(self, *, sees_order: bool = True) -> None:
        self.sees_order = self.keeps_order = sees_order

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, questions: Any, keep: Any, *, progress: bool) -> None:
        raise AssertionError("there is nothing to ask")


@pytest.fixture
def silent() -> Callable[..., Judge]:
    """Factory of judges that were asked before."""
    return Silent


@pytest.fixture
def prefers_longer() -> Callable[[dict[str, Any]], str]:
    """A judge that prefers the longer answer."""
    return longer


@pytest.fixture
def pairs() -> list[Pair]:
    """24 pairs: every fourth of equal answers, the others won, lost and tied by length."""
    made: list[Pair] = []
    for i in range(24):
        model, baseline = [
            ("same", "same"),
            ("longer" * 3, "short"),
            ("short", "longer" * 3),
            ("abc", "xyz"),
        ][i % 4]
        made.append(Pair(f"prompt {i}", model, baseline))
    return made
