"""The client of a chat server against a server that fails in every way that servers do."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from distal.errors import ConfigError, DistalError, ServiceError
from distal.evaluation.budget import Budget, BudgetLimits
from distal.evaluation.endpoint import ChatEndpoint, EndpointOptions, RequestRefused
from distal.evaluation.threads import in_threads
from tests.evaluation.fake_server import Failure, FakeServer, body, silence, status

SENTINEL = "sk-sentinel-3141592653"
QUESTION = [{"role": "user", "content": "?"}]


def endpoint(server: FakeServer, budget: Budget | None = None, **options: Any) -> ChatEndpoint:
    settings: dict[str, Any] = {"timeout": 1.0, "retries": 2, "backoff": 0.01}
    return ChatEndpoint(EndpointOptions(base_url=server.url, model="m", **settings | options), budget)


@pytest.mark.parametrize(
    "failure",
    [
        silence(1.3),
        status(429, Retry_After="0"),
        status(500),
        status(503, "<html>busy</html>"),
        body("{"),
        body(""),
        body('{"choices": []}'),
        body('{"error": "overloaded"}'),
        body('{"choices": [{"message"', promised=4000),
    ],
    ids=["time-out", "429", "500", "503", "broken-json", "empty", "no-choice", "error-with-200", "closed"],
)
def test_failures_that_pass_are_repeated(failure: Failure):
    with FakeServer(lambda asked: "A", [failure, failure]) as server:
        assert endpoint(server).chat(QUESTION).text == "A"
        assert len(server.requests) == 3


def test_failures_that_stay_end_with_their_reason():
    with FakeServer(lambda asked: "A", [status(500, "no memory")] * 9) as server:
        with pytest.raises(ServiceError, match=r"after 3 attempts: status 500, no memory.*kept"):
            endpoint(server).chat(QUESTION)
        assert len(server.requests) == 3


def test_a_server_that_trickles_runs_out_of_time():
    def play(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    with FakeServer(lambda asked: "A", [Failure(play)]) as server:
        begun = time.monotonic()
        with pytest.raises(ServiceError, match=r"no answer within 0.4 s"):
            endpoint(server, retries=0, timeout=0.4).chat(QUESTION)
        assert time.monotonic() - begun < 1.9, "it waited for the whole answer"


def test_a_pause_that_the_server_asks_for_is_kept():
    with FakeServer(lambda asked: "A", [status(429, Retry_After="0.3")]) as server:
        begun = time.monotonic()
        assert endpoint(server).chat(QUESTION).text == "A"
        assert time.monotonic() - begun >= 0.3


def test_a_pause_that_is_too_long_ends_the_job():
    with FakeServer(lambda asked: "A", [status(429, Retry_After="3600")]) as server:
        with pytest.raises(ServiceError, match="asks to wait 3600 s"):
            endpoint(server).chat(QUESTION)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (400, RequestRefused, "context too long"),
        (401, ServiceError, "OPENAI_API_KEY"),
        (404, ServiceError, "serves a model named m"),
        (302, ServiceError, "check --base-url"),
    ],
)
def test_refusals_are_not_repeated(code: int, kind: type[ServiceError], says: str):
    failure = status(code, "context too long", Location="http://127.0.0.1:9/elsewhere")
    with FakeServer(lambda asked: "A", [failure]) as server:
        with pytest.raises(kind, match=says):
            endpoint(server).chat(QUESTION)
        assert len(server.requests) == 1


def test_nobody_listens():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    options = EndpointOptions(base_url=f"http://127.0.0.1:{port}/v1", model="m", retries=1, backoff=0.0)
    with pytest.raises(ServiceError, match=r"does not answer after 2 attempts.*refused"):
        ChatEndpoint(options).chat(QUESTION)


def echo(handler: Any) -> None:
    """A server that repeats the key in its error message."""
    said = f"bad key: {handler.headers['Authorization']}"
    status(401, said).play(handler)


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", f"{SENTINEL}\n")
    with FakeServer(lambda asked: "A", [Failure(echo)]) as server:
        client = endpoint(server, api_key_env="MY_KEY")
        with pytest.raises(ServiceError, match="MY_KEY") as raised:
            client.chat(QUESTION)
        assert server.headers[0]["Authorization"] == f"Bearer {SENTINEL}"
        assert SENTINEL not in str(raised.value)
        assert SENTINEL not in repr(client.options)
        cause: BaseException | None = raised.value
        while cause is not None:
            assert SENTINEL not in str(cause)
            cause = cause.__cause__


def test_a_key_that_nobody_named_goes_to_no_other_machine_in_the_clear(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    open_address = EndpointOptions(base_url="http://judge.example/v1", model="m")
    assert ChatEndpoint(open_address)._key == ""
    for address in ("https://judge.example/v1", "http://127.0.0.1:8000/v1", "http://localhost:1/v1"):
        assert ChatEndpoint(EndpointOptions(base_url=address, model="m"))._key == SENTINEL


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:8000"}, "must be an address"),
        ({"base_url": f"http://user:{SENTINEL}@host/v1"}, "no user name"),
        ({"base_url": "http://host/v1", "api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set"),
        ({"base_url": "http://host/v1", "model": ""}, "name of the served model"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], says: str):
    settings: dict[str, Any] = {"model": "m"} | options
    with pytest.raises(ConfigError, match=says) as raised:
        ChatEndpoint(EndpointOptions(**settings))
    assert SENTINEL not in str(raised.value)


def test_budget_of_requests_counts_repetitions():
    with FakeServer(lambda asked: "A", [status(500)]) as server:
        client = endpoint(server, Budget(BudgetLimits(requests=2)))
        client.chat(QUESTION)
        with pytest.raises(ServiceError, match="budget of 2 requests is spent"):
            client.chat(QUESTION)
        assert len(server.requests) == 2


def test_budget_of_tokens_and_cost():
    with FakeServer(lambda asked: "A") as server:
        budget = Budget(BudgetLimits(cost=3e-5, input_price=1.0, output_price=5.0))
        client = endpoint(server, budget)
        client.chat(QUESTION)  # 10 tokens in, 2 out: 2e-5
        client.chat(QUESTION)
        with pytest.raises(ServiceError, match="is spent"):
            client.chat(QUESTION)
        assert budget.spent() == {
            "requests": 2,
            "input_tokens": 20,
            "output_tokens": 4,
            "cost": pytest.approx(4e-5),
        }


def test_budget_of_tokens_without_a_count_is_refused():
    with FakeServer(lambda asked: "A", usage=False) as server:
        client = endpoint(server, Budget(BudgetLimits(tokens=100)))
        assert client.chat(QUESTION).text == "A", "the answer that was paid for is not thrown away"
        with pytest.raises(ServiceError, match="does not report"):
            client.chat(QUESTION)


@pytest.mark.parametrize(
    "limits", [{"requests": -1}, {"cost": 1.0}, {"input_price": 1.0}, {"cost": float("nan")}]
)
def test_budgets_that_cannot_be(limits: dict[str, Any]):
    with pytest.raises(ConfigError):
        BudgetLimits(**limits)


def test_one_failure_stops_the_others_but_not_what_is_under_way():
    finished: list[int] = []
    stopped = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            time.sleep(0.05)
            raise ServiceError("dead")
        time.sleep(0.1)
        finished.append(item)

    with pytest.raises(ServiceError, match="dead"):
        in_threads(list(range(50)), work, concurrency=3, stopped=stopped)
    assert stopped.is_set()
    assert {0, 2} <= set(finished)
    assert len(finished) < 6


def test_a_pause_ends_when_another_request_failed():
    with FakeServer(lambda asked: "A", [status(429, Retry_After="60")]) as server:
        client = endpoint(server)
        failed: list[DistalError] = []

        def ask() -> None:
            try:
                client.chat(QUESTION)
            except ServiceError as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        _until(lambda: bool(server.requests))
        time.sleep(0.05)
        client.stopped.set()
        thread.join(5)
        assert not thread.is_alive()
        assert "stopped" in str(failed[0])


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
