"""Judging by a server that fails in every way: nothing judged is lost, nothing is asked twice."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distal.errors import ServiceError
from distal.evaluation.budget import Budget, BudgetLimits
from distal.evaluation.endpoint import ChatEndpoint, EndpointOptions
from distal.evaluation.journal import Journal
from distal.evaluation.judging import (
    JudgedPair,
    Pair,
    ServerJudge,
    ServerJudgeOptions,
    WinRate,
    judge_pairs,
    judgement_lines,
    win_rate,
)
from tests.evaluation.fake_server import FakeServer, body, silence, status

Answer = Callable[[dict[str, Any]], str]

QUESTIONS = 36
"""18 of the 24 pairs differ, and each is asked about in both orders."""


def judged(
    server: FakeServer, pairs: list[Pair], path: Path | None = None, **options: Any
) -> list[JudgedPair]:
    budget = Budget(BudgetLimits(requests=options.pop("requests", None)))
    orders = options.pop("orders", "both")
    own = {"malformed_retries", "answer_pattern", "request", "prompt"} & set(options)
    asked = ServerJudgeOptions(**{name: options.pop(name) for name in own})
    concurrency = options.pop("concurrency", 4)
    settings: dict[str, Any] = {"retries": 3, "backoff": 0.005, "timeout": 20.0} | options
    endpoint = ChatEndpoint(EndpointOptions(base_url=server.url, model="m", **settings), budget)
    judge = ServerJudge(endpoint, asked, concurrency=concurrency)
    journal = None if path is None else Journal(path)
    return judge_pairs(pairs, judge, orders=orders, journal=journal, progress=False)


def record(found: list[JudgedPair]) -> WinRate:
    options = EndpointOptions(base_url="http://localhost/v1", model="m")
    return win_rate(found, ServerJudge(ChatEndpoint(options)), names=("m", "b"))


def test_counts_and_agreement(pairs: list[Pair], prefers_longer: Answer):
    with FakeServer(prefers_longer) as server:
        result = record(judged(server, pairs))
        assert len(server.requests) == QUESTIONS
    assert (result.n, result.wins, result.losses, result.ties, result.failed) == (24, 6, 6, 12, 0)
    assert result.identical == 6
    assert result.win_rate == 0.5
    assert result.order_agreement == 1
    assert result.first_preferred == 0.5
    assert not result.notes
    assert result.length_adjusted is not None


def test_a_judge_that_always_says_the_same(pairs: list[Pair]):
    with FakeServer(lambda asked: "A") as server:
        result = record(judged(server, pairs))
    assert result.win_rate == 0.5
    assert (result.wins, result.losses) == (0, 0)
    assert result.order_agreement == 0
    assert result.first_preferred == 1
    assert any("replied 'A' in all 36 questions: it does not tell" in note for note in result.notes)


def test_one_order_keeps_the_bias(pairs: list[Pair]):
    with FakeServer(lambda asked: "A") as server:
        result = record(judged(server, pairs, orders="model_first"))
        assert len(server.requests) == QUESTIONS // 2
    assert result.wins == 18
    assert result.order_agreement is None
    assert any("ask both orders" in note for note in result.notes)


def test_what_was_judged_is_not_asked_again(pairs: list[Pair], prefers_longer: Answer, tmp_path: Path):
    path = tmp_path / "j.jsonl"
    with FakeServer(prefers_longer) as server:
        first = judged(server, pairs, path)
        assert judged(server, pairs, path) == first
        assert len(server.requests) == QUESTIONS
        # Exchanged sides are the same questions.
        turned = [Pair(pair.prompt, pair.baseline, pair.model) for pair in pairs]
        assert record(judged(server, turned, path)).losses == record(first).wins
        assert len(server.requests) == QUESTIONS
        for changed in ({"request": {"seed": 1}}, {"answer_pattern": "(A|B|TIE)"}):
            before = len(server.requests)
            judged(server, pairs[:2], path, **changed)
            assert len(server.requests) == before + 2, "another judge has nothing to do with what was said"


def test_every_failure_at_once_changes_nothing(pairs: list[Pair], prefers_longer: Answer, tmp_path: Path):
    failures = [
        silence(2.5),
        status(429, Retry_After="0.05"),
        status(500),
        body("{"),
        body(""),
        body('{"choices": [{"mess', promised=999),
        status(503),
    ]
    with FakeServer(prefers_longer) as server:
        clean = judged(server, pairs)
    with FakeServer(prefers_longer, [one for failure in failures for one in (failure, None)]) as server:
        assert judged(server, pairs, tmp_path / "j.jsonl", timeout=2.0) == clean
        assert server.answered == QUESTIONS, "an answer was thrown away and asked for again"


def test_replies_without_a_verdict_are_reminded_then_failed_and_asked_again_next_time(
    pairs: list[Pair], prefers_longer: Answer, tmp_path: Path
):
    path = tmp_path / "j.jsonl"

    def stubborn(asked: dict[str, Any]) -> str:
        if "prompt 1\n" in asked["messages"][0]["content"]:
            return ""
        if "prompt 2\n" in asked["messages"][0]["content"] and len(asked["messages"]) == 1:
            return "Well, both have their merits."
        return prefers_longer(asked)

    with FakeServer(stubborn) as server:
        found = judged(server, pairs, path, malformed_retries=1)
        # Two orders of the two pairs took one reminder each.
        assert len(server.requests) == QUESTIONS + 4
        reminders = [asked["messages"] for asked in server.requests if len(asked["messages"]) > 1]
        assert {turns[2]["content"] for turns in reminders} == {
            "Reply with one word and nothing else: A, B or TIE."
        }
    result = record(found)
    assert (result.failed, result.wins, result.losses, result.ties) == (1, 5, 6, 12)
    assert result.win_rate == pytest.approx((5 + 6) / 23)
    assert any("1 of 24 prompts have no verdict" in note for note in result.notes)
    line = json.loads(judgement_lines(found).splitlines()[1])
    assert (line["verdict"], line["credit"]) == ("failed", None)
    assert "no verdict in 2 replies" in line["orders"][0]["reason"]
    with FakeServer(prefers_longer, port=server.port) as again:
        assert record(judged(again, pairs, path, malformed_retries=1)).failed == 0
        assert len(again.requests) == 2


def test_a_request_that_is_refused_costs_one_verdict(pairs: list[Pair], prefers_longer: Answer):
    with FakeServer(prefers_longer, [status(400, "context too long")]) as server:
        found = judged(server, pairs, concurrency=1)
    assert record(found).failed == 1
    assert "context too long" in str(found[1].orders[0][1].reason)


def test_not_one_verdict_is_an_error(pairs: list[Pair]):
    with FakeServer(lambda asked: "hm") as server:
        found = judged(server, pairs[1:4], malformed_retries=0)
    with pytest.raises(ServiceError, match=r"no verdict on any of 3 pairs: no verdict in 1 replies"):
        record(found)


def test_a_server_that_dies_and_comes_back(pairs: list[Pair], prefers_longer: Answer, tmp_path: Path):
    path = tmp_path / "j.jsonl"
    with FakeServer(prefers_longer) as server:
        server.fail(*[None] * 15, *[status(500)] * 40)
        with pytest.raises(ServiceError, match="kept"):
            judged(server, pairs, path, retries=1)
        kept = server.answered
        assert kept >= 15
    with pytest.raises(ServiceError, match="refused"):
        judged(server, pairs, path, retries=0)
    with FakeServer(prefers_longer, port=server.port) as again:
        assert record(judged(again, pairs, path)).wins == 6
        assert again.answered == QUESTIONS - kept


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_in_the_middle(pairs: list[Pair], prefers_longer: Answer, tmp_path: Path):
    path = tmp_path / "j.jsonl"

    def slow(asked: dict[str, Any]) -> str:
        time.sleep(0.02)
        return prefers_longer(asked)

    with FakeServer(slow) as server:
        process = multiprocessing.get_context("fork").Process(target=judged, args=(server, pairs, path))
        process.start()
        deadline = time.monotonic() + 20
        while server.answered < 10:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.join()
        before = len(server.requests)
        assert before < QUESTIONS
        assert record(judged(server, pairs, path)).wins == 6
        # Only what was under way when the process was killed, at most one request per thread, is asked twice.
        assert len(server.requests) <= QUESTIONS + 4


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_at_once(pairs: list[Pair], tmp_path: Path):
    path = tmp_path / "j.jsonl"
    count = iter(range(10**6))

    def fickle(asked: dict[str, Any]) -> str:
        return "AB"[next(count) % 2]

    with FakeServer(fickle) as server:
        other = multiprocessing.get_context("fork").Process(target=judged, args=(server, pairs, path))
        other.start()
        ours = judged(server, pairs, path)
        other.join()
        assert other.exitcode == 0
    # The first verdict on a question holds for both, so that both count the same.
    journal = Journal(path)
    assert len(journal) == QUESTIONS
    assert journal.damaged == 0
    with FakeServer(fickle, port=server.port) as again:
        assert judged(again, pairs, path) == ours
        assert not again.requests


def test_a_budget_is_kept_and_can_be_raised(pairs: list[Pair], prefers_longer: Answer, tmp_path: Path):
    path = tmp_path / "j.jsonl"
    with FakeServer(prefers_longer) as server:
        for limit in (7, 20):
            with pytest.raises(ServiceError, match=f"budget of {limit} requests"):
                judged(server, pairs, path, requests=limit)
        assert len(server.requests) == 27
        judged(server, pairs, path, requests=9)
        assert len(server.requests) == QUESTIONS
