"""A judge behind any OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distal.errors import ConfigError
from distal.evaluation.endpoint import ChatEndpoint, RequestRefused
from distal.evaluation.judging.prompts import DEFAULT_PROMPT, REMINDER, answer_reader, prompt_writer
from distal.evaluation.judging.questions import Judgement, KeepJudgement, Question
from distal.evaluation.threads import in_threads

__all__ = ["ServerJudge", "ServerJudgeOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJudgeOptions:
    """How a served judge is asked.

    Attributes:
        prompt: see `distal.evaluation.judging.prompts.prompt_writer`.
        answer_pattern: see `distal.evaluation.judging.prompts.answer_reader`.
        temperature: of its answers.
        max_tokens: of its answers.
        seed: of its answers, for servers that heed it.
        malformed_retries: how often a judge is reminded that replied without a verdict.
        request: further fields of each request; None leaves a field out.
    """

    prompt: str = DEFAULT_PROMPT
    answer_pattern: str | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0
    malformed_retries: int = 2
    request: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.malformed_retries < 0 or not self.temperature >= 0:
            raise ConfigError(
                "max_tokens of the judge must be at least 1, malformed_retries and temperature at least 0."
            )
        own = {"model", "messages", "stream", "n"} & set(self.request)
        if own:
            raise ConfigError(f"request: {', '.join(sorted(own))} cannot be set there.")


class ServerJudge:
    """Asks a served model which of two answers is better.

    Args:
        endpoint: the server.
        options: how it is asked.
        concurrency: most requests at once.
    """

    sees_order = True
    keeps_order = True
    stored = True

    def __init__(
        self, endpoint: ChatEndpoint, options: ServerJudgeOptions | None = None, *, concurrency: int = 8
    ) -> None:
        self._endpoint = endpoint
        self._options = options or ServerJudgeOptions()
        self._concurrency = concurrency
        self._write = prompt_writer(self._options.prompt)
        self._read = answer_reader(self._options.answer_pattern)

    def describe(self) -> dict[str, Any]:
        """Address and name of the served model, the prompt, and how it answers."""
        return {
            "judge": "server",
            "model": self._endpoint.options.model,
            "base_url": self._endpoint.options.base_url,
            "prompt": self._options.prompt,
            "answer_pattern": self._options.answer_pattern,
            **self._settings(),
        }

    def run(self, questions: Sequence[Question], keep: KeepJudgement, *, progress: bool) -> None:
        """Several questions at once."""
        in_threads(
            questions,
            lambda question: keep(question, self._ask(question)),
            concurrency=self._concurrency,
            stopped=self._endpoint.stopped,
            description="Judging" if progress else None,
        )

    def _settings(self) -> dict[str, Any]:
        own = {
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
            "seed": self._options.seed,
        }
        return own | dict(self._options.request)

    def _ask(self, question: Question) -> Judgement:
        messages = [
            {"role": "user", "content": self._write(question.prompt, question.first, question.second)}
        ]
        said: list[str] = []
        cut = ""
        for _ in range(self._options.malformed_retries + 1):
            try:
                reply = self._endpoint.chat(messages, **self._settings())
            except RequestRefused as refusal:
                return Judgement(None, "\n---\n".join(said), str(refusal))
            said.append(reply.text)
            cut = ", the last cut off at its greatest length" if reply.finish == "length" else ""
            preference = self._read(reply.text)
            if preference is not None:
                return Judgement(preference, reply.text)
            # Some servers take no empty message, and some no two turns of the same role.
            messages = [
                messages[0],
                {"role": "assistant", "content": reply.text or "?"},
                {"role": "user", "content": REMINDER},
            ]
        return Judgement(None, "\n---\n".join(said), f"no verdict in {len(said)} replies{cut}")
