"""What every engine that answers prompts can do, and the two that need no model in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from distal.data.prompts import user_turn
from distal.errors import ConfigError, ModelError
from distal.evaluation.endpoint import ChatEndpoint, RequestRefused
from distal.evaluation.generation.options import Generation, SamplingOptions, cut_at_stop, row_seed
from distal.evaluation.generation.prompts import Prompt
from distal.evaluation.threads import in_threads

__all__ = ["Engine", "Keep", "ServerEngine", "VllmEngine"]

Keep = Callable[[Mapping[int, Generation]], None]
"""Stores answers by the index of their prompt; called as soon as they are there."""


class Engine(Protocol):
    """Answers prompts."""

    def describe(self) -> dict[str, Any]:
        """Everything that an answer depends on beside prompt and sampling options; no secrets."""
        ...

    def run(self, prompts: Sequence[Prompt], done: Collection[int], keep: Keep, *, progress: bool) -> None:
        """Answer the prompts whose index is not in `done`."""
        ...


class ServerEngine:
    """Answers of a model behind an OpenAI-compatible server; the server applies its own chat template.

    Greedy answers and seeds are as good as the server's word: many ignore the seed, and continuous batching changes
    the last bits of logits. So equal settings are not claimed to give equal answers.
    """

    def __init__(self, endpoint: ChatEndpoint, options: SamplingOptions, *, concurrency: int = 8) -> None:
        idle = {
            "top_k": options.top_k > 0,
            "stop_tokens": bool(options.stop_tokens),
        }
        if any(idle.values()):
            names = ", ".join(name for name, given in idle.items() if given)
            raise ConfigError(
                f"{names}: not part of the protocol that servers share; leave out, or use another engine."
            )
        self._endpoint = endpoint
        self._options = options
        self._concurrency = concurrency

    def describe(self) -> dict[str, Any]:
        """Address and name of the served model."""
        options = self._endpoint.options
        return {"engine": "server", "base_url": options.base_url, "model": options.model}

    def run(self, prompts: Sequence[Prompt], done: Collection[int], keep: Keep, *, progress: bool) -> None:
        """Several requests at once; each answer is kept as it comes."""

        def ask(index: int) -> None:
            row = prompts[index].row
            messages = user_turn(row.prompt) if isinstance(row.prompt, str) else row.prompt
            tools = {"tools": list(row.tools)} if row.tools else {}
            options = self._options
            try:
                reply = self._endpoint.chat(
                    messages,
                    max_tokens=options.max_new_tokens,
                    temperature=options.temperature,
                    top_p=options.top_p if options.top_p < 1 else None,
                    stop=list(options.stop) or None,
                    seed=row_seed(options.seed, prompts[index].instruction, bits=31),
                    **tools,
                )
            except RequestRefused as refusal:
                raise ModelError(f"row {prompts[index].source_row} of the prompts: {refusal}") from refusal
            text, _ = cut_at_stop(reply.text, options.stop)
            keep({index: Generation(text, reply.finish)})

        in_threads(
            [index for index in range(len(prompts)) if index not in done],
            ask,
            concurrency=self._concurrency,
            stopped=self._endpoint.stopped,
            description="Generating" if progress else None,
        )


class VllmEngine:
    """Answers by vLLM in this process, where it is installed; every prompt has its own seed.

    No test of Distal runs vLLM. Its batching changes the last bits of logits, so equal answers are not claimed.
    """

    def __init__(
        self,
        model: str,
        rendered: Sequence[Sequence[int]],
        options: SamplingOptions,
        *,
        chunk: int = 256,
        **settings: Any,
    ) -> None:
        try:
            import vllm  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "engine=vllm needs vLLM, which is not installed here: `pip install vllm` in an environment of its own "
                "(it brings its own version of torch), or serve the model and use --engine server."
            ) from error
        self._vllm: Any = vllm
        self._model = model
        self._rendered = rendered
        self._options = options
        self._chunk = chunk
        self._settings = settings

    def describe(self) -> dict[str, Any]:
        """Model, its settings, and vLLM's version."""
        version = str(getattr(self._vllm, "__version__", "unknown"))
        return {"engine": "vllm", "model": self._model, "vllm": version, **self._settings}

    def run(self, prompts: Sequence[Prompt], done: Collection[int], keep: Keep, *, progress: bool) -> None:
        """A few hundred prompts at a time; each such chunk is kept when it is complete."""
        model = self._vllm.LLM(model=self._model, **self._settings)
        tokenizer = model.get_tokenizer()
        options = self._options
        stop_ids = [tokenizer.convert_tokens_to_ids(token) for token in options.stop_tokens]
        left = [index for index in range(len(prompts)) if index not in done]
        for start in range(0, len(left), self._chunk):
            chunk = left[start : start + self._chunk]
            sampling = [
                self._vllm.SamplingParams(
                    max_tokens=options.max_new_tokens,
                    temperature=options.temperature,
                    top_p=options.top_p,
                    top_k=options.top_k or -1,
                    stop=list(options.stop),
                    stop_token_ids=stop_ids,
                    seed=row_seed(options.seed, prompts[index].instruction, bits=31),
                )
                for index in chunk
            ]
            inputs = [{"prompt_token_ids": list(self._rendered[index])} for index in chunk]
            answers = model.generate(inputs, sampling, use_tqdm=progress)
            keep(
                {
                    index: Generation(
                        answer.outputs[0].text,
                        answer.outputs[0].finish_reason or "unknown",
                        len(answer.outputs[0].token_ids),
                    )
                    for index, answer in zip(chunk, answers, strict=True)
                }
            )
