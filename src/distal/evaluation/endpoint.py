"""A client of any server that speaks OpenAI's chat protocol: retries, time-outs, a budget, and a key that stays secret.

It needs nothing beyond the standard library: one kind of request is sent, and what becomes of a failure has to be
known exactly, so that nothing is asked twice and nothing is lost.
"""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import json
import os
import random
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distal.errors import ConfigError, ServiceError
from distal.evaluation.budget import Budget

__all__ = ["ChatEndpoint", "EndpointOptions", "Reply", "RequestRefused", "find_key"]

Messages = Sequence[Mapping[str, str]]

_DEFAULT_KEY = "OPENAI_API_KEY"
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_ABOUT_ONE_PROMPT = frozenset({400, 413, 422})
_SHOWN = 300
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """Where a model is served, and how patient the client is.

    Attributes:
        base_url: address up to and including the version, such as `http://localhost:8000/v1`.
        model: name of the model as the server knows it.
        api_key_env: environment variable that holds the key; None for OPENAI_API_KEY where it is set, which then goes
            to another machine over https only.
        timeout: seconds for one answer.
        retries: how often a request is repeated that failed for a reason that may pass.
        backoff: seconds before the first repetition; doubled each time, with up to half as much again at random.
        longest_wait: seconds; a server that asks for a longer pause is given up.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 300.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "base_url must be an address such as http://localhost:8000/v1 or https://api.openai.com/v1."
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "base_url must hold no user name, password or query; a key is read from the environment variable "
                "that --api-key-env names."
            )
        if not self.model:
            raise ConfigError("the name of the served model is missing.")
        if not self.timeout > 0 or self.retries < 0 or self.backoff < 0:
            raise ConfigError("timeout must be above 0, retries and backoff at least 0.")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a served model.

    Attributes:
        text: what it says; may be empty.
        finish: why it ended, in the server's words: `stop`, `length`, ...
    """

    text: str
    finish: str


class RequestRefused(ServiceError):
    """The server refuses this request, as it does a prompt that is too long; others may pass."""


class _Transient(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class ChatEndpoint:
    """Sends messages to a served model; may be used by several threads at once.

    Args:
        options: where and how.
        budget: what may be spent; None for no limit.

    Raises:
        ConfigError: the environment variable that was named is not set.
    """

    def __init__(self, options: EndpointOptions, budget: Budget | None = None) -> None:
        self.options = options
        self.budget = budget or Budget()
        self.stopped = threading.Event()
        self._url = options.base_url.rstrip("/") + "/chat/completions"
        self._key = find_key(options)
        self._opener = urllib.request.build_opener(_NoRedirect())
        self._not_before = 0.0

    def chat(self, messages: Messages, **settings: Any) -> Reply:
        """The model's answer to a conversation.

        Args:
            messages: the conversation, each message with role and content.
            **settings: temperature, top_p, max_tokens, seed, stop; None leaves one out.

        Raises:
            RequestRefused: this request is refused.
            ServiceError: the server does not answer, refuses the key, or the budget is spent.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        body = json.dumps({"model": self.options.model, "messages": list(messages), **given}).encode()
        reason = ""
        for attempt in range(self.options.retries + 1):
            self._wait(self._not_before - time.monotonic())
            self.budget.reserve()
            try:
                return self._once(body)
            except _Transient as failure:
                reason = str(failure)
                if attempt < self.options.retries:
                    self._pause(failure, attempt)
        times = f" after {self.options.retries + 1} attempts" if self.options.retries else ""
        raise ServiceError(
            f"{self._url} does not answer{times}: {reason}. Every answer so far is kept: start again to go on from "
            "here."
        )

    def _once(self, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        deadline = time.monotonic() + self.options.timeout
        try:
            with self._opener.open(request, timeout=self.options.timeout) as response:
                content = self._read(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from None
        except (http.client.HTTPException, OSError) as error:
            raise self._unreachable(error) from None
        return self._parsed(content)

    def _read(self, response: Any, deadline: float) -> bytes:
        """The whole body; a server that only trickles runs out of time too."""
        parts: list[bytes] = []
        while part := response.read1(_CHUNK):
            parts.append(part)
            if time.monotonic() > deadline:
                raise TimeoutError
        expected, size = response.headers.get("Content-Length"), sum(map(len, parts))
        if expected is not None and expected.isdigit() and size < int(expected):
            raise _Transient("the connection was closed in the middle of an answer")
        return b"".join(parts)

    def _parsed(self, content: bytes) -> Reply:
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            text = choice["message"].get("content") or ""
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            shown = self._shown(content.decode("utf-8", "replace"))
            raise _Transient(f"it answered with something that is no chat completion: {shown}") from None
        self.budget.account(answer.get("usage"))
        return Reply(text, str(choice.get("finish_reason") or "unknown"))

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What a status other than 200 means."""
        try:
            said = self._shown(error.read(_CHUNK).decode("utf-8", "replace"))
        except (http.client.HTTPException, OSError):
            said = "nothing more"
        status = f"status {error.code}"
        if error.code in _TRANSIENT:
            return _Transient(f"{status}, {said}", _retry_after(error.headers.get("Retry-After")))
        if error.code in _ABOUT_ONE_PROMPT:
            return RequestRefused(f"{self._url} refused a request ({status}): {said}")
        where = self.options.api_key_env or _DEFAULT_KEY
        hint = {
            401: f"check the key in the environment variable {where}",
            403: f"check the rights of the key in the environment variable {where}",
            404: f"check --base-url, and that it serves a model named {self.options.model}",
        }.get(error.code, "check --base-url")
        return ServiceError(f"{self._url} answered with {status}: {said}; {hint}.")

    def _unreachable(self, reason: object) -> Exception:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ServiceError(
                f"the certificate of {self._url} is not valid: {reason.verify_message}; nothing was sent."
            )
        if isinstance(reason, TimeoutError):
            return _Transient(f"no answer within {self.options.timeout:g} s")
        return _Transient(self._shown(str(reason) or type(reason).__name__))

    def _pause(self, failure: _Transient, attempt: int) -> None:
        """Wait before the next attempt; a pause that the server asks for holds for all threads."""
        wait = self.options.backoff * 2**attempt * (1 + random.random() / 2)
        if failure.wait is not None:
            if failure.wait > self.options.longest_wait:
                raise ServiceError(
                    f"{self._url} asks to wait {failure.wait:.0f} s ({failure}). Every answer so far is kept: start "
                    "again later to go on from here."
                )
            wait = max(wait, failure.wait)
            self._not_before = max(self._not_before, time.monotonic() + failure.wait)
        self._wait(min(wait, self.options.longest_wait))

    def _wait(self, seconds: float) -> None:
        if self.stopped.wait(max(0.0, seconds)):
            raise ServiceError("stopped, because another request failed.")

    def _shown(self, text: str) -> str:
        """The beginning of what a server said, in one line and without the key."""
        plain = text.replace(self._key, "***") if self._key else text
        line = " ".join(plain.split())
        return (line[:_SHOWN] + " ..." if len(line) > _SHOWN else line) or "an empty answer"


def find_key(options: EndpointOptions) -> str:
    """The key that goes to a server, from the environment; empty where there is none.

    Raises:
        ConfigError: the environment variable that was named is not set, or holds no key.
    """
    name = options.api_key_env or _DEFAULT_KEY
    key = os.environ.get(name, "").strip()
    if options.api_key_env is not None and not key:
        raise ConfigError(f"api_key_env: the environment variable {name} is not set, or empty.")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"the environment variable {name} holds characters that no key has.")
    parts = urllib.parse.urlsplit(options.base_url)
    if key and options.api_key_env is None and parts.scheme == "http":
        # Nobody asked for it to be sent, and another machine should not get it in the clear.
        return key if _is_local(parts.hostname or "") else ""
    return key


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
