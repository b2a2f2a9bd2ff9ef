"""A chat server of our own, which answers as told and fails as told; it counts what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]
"""What the model says, from the body of the request."""


class Failure:
    """One way to fail: writes to the connection whatever it likes."""

    def __init__(self, play: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.play = play


def status(code: int, text: str = "{}", **headers: str) -> Failure:
    """An answer with another status than 200."""

    def play(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())

    return Failure(play)


def body(text: str, *, promised: int | None = None) -> Failure:
    """Status 200 with any text; with a greater length promised, the connection ends in the middle."""

    def play(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(promised or len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())
        handler.close_connection = True

    return Failure(play)


def silence(seconds: float) -> Failure:
    """Nothing for a while, and then the end of the connection."""

    def play(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return Failure(play)


class FakeServer:
    """An OpenAI-compatible server on a free port of this machine.

    Args:
        answer: what the model says.
        failures: what happens to the first requests instead; None is an ordinary answer.
        usage: whether answers report tokens.
        port: 0 for any.
    """

    def __init__(
        self,
        answer: Answer,
        failures: Sequence[Failure | None] = (),
        *,
        usage: bool = True,
        port: int = 0,
    ) -> None:
        self.answer = answer
        self.usage = usage
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered = 0
        self._failures = list(failures)
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that give up are part of the tests

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)
        self._thread.start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        asked = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(asked)
            self.headers.append({name.title(): value for name, value in handler.headers.items()})
            failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            failure.play(handler)
            return
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": self.answer(asked)},
                }
            ],
        }
        if self.usage:
            answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        content = json.dumps(answer).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        with self._lock:
            self.answered += 1

    def fail(self, *failures: Failure | None) -> None:
        """What happens to the next requests."""
        with self._lock:
            self._failures = list(failures)

    def stop(self) -> None:
        """No longer reachable from here on."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
