"""A model and its tokenizer as lm-evaluation-harness asks them, with what it passes over in silence counted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from distal.errors import ModelError, NonFiniteError
from distal.evaluation.benchmarks.harness import contained

__all__ = ["language_model"]

_WIDE = (torch.float32, torch.float64)


def language_model(
    model: nn.Module,
    tokenizer: Any,
    *,
    batch_size: int,
    on_request: Callable[[str], None] = lambda kind: None,
) -> Any:
    """Wraps a model that is loaded and in its place.

    Log-softmax is taken in float32 at least, whatever the weights' dtype.

    Args:
        model: a causal language model, with an adapter or without.
        tokenizer: its tokenizer; gets a padding token if it has none.
        batch_size: rows of one forward pass; memory and speed only.
        on_request: called after each request with its kind, `loglikelihood` or `generate_until`.

    Returns:
        An `lm_eval` model. `requests` counts what it was asked, `cut` how much of that was longer than the model's
        context and lost its beginning.
    """
    dtype = next(model.parameters()).dtype
    with contained():
        wrapped = _wrapper()(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            softmax_dtype=None if dtype in _WIDE else "float32",
        )
    wrapped.set_cache_hook(_Tick(on_request))
    return wrapped


class _Tick:
    """What the harness tells each response to, so that it may be cached; here it moves a progress bar."""

    def __init__(self, on_request: Callable[[str], None]) -> None:
        self._on_request = on_request

    def add_partial(self, attr: str, req: object, res: object) -> None:
        self._on_request(attr)


@functools.cache
def _wrapper() -> Any:
    """The harness's class for transformers models, extended; made late, because its import takes seconds."""
    from lm_eval.models import huggingface

    base: Any = huggingface.HFLM  # its decorators carry no complete types

    class CountingModel(base):
        """Counts requests and those that were cut off, and refuses what is not finite."""

        requests = 0
        cut = 0

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            """Log-likelihoods of continuations."""
            return super().loglikelihood(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            """Generations, after a check that the context has room for them."""
            for request in requests:
                context, settings = request.args
                new_tokens = settings.get("max_gen_toks", settings.get("max_new_tokens", self.max_gen_toks))
                room = _room(self.max_length, new_tokens, request.task_name)
                self.cut += len(self.tok_encode(context)) > room
            self.requests += len(requests)
            return super().generate_until(requests, disable_tqdm=True)

        def _loglikelihood_tokens(
            self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> Any:
            for texts, context, continuation in requests:
                # Windows of a long text come without texts.
                _check_continuation(texts[1] if texts else "", len(continuation), self.max_length)
                self.cut += len(context) + len(continuation) > self.max_length + 1
            self.requests += len(requests)
            answers = super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
            for score, _ in answers:
                _check_finite(score)
            return answers

    return CountingModel


def _room(context: int, new_tokens: int, task: str) -> int:
    """Tokens that a prompt may have, or a `ModelError` where there are none."""
    if new_tokens >= context:
        raise ModelError(
            f"the model's context of {context} tokens has no room for a prompt beside the {new_tokens} tokens that "
            f"{task} may generate; lower --max-gen-tokens, or choose tasks without generation (--tasks)."
        )
    return context - new_tokens


def _check_continuation(text: str, tokens: int, context: int) -> None:
    """Refuses a continuation of no token, and one that does not fit into the context."""
    if tokens == 0:
        raise ModelError(
            f"the tokenizer makes no token of the continuation {text[:60]!r}, so that it has no log-likelihood; is it "
            "the model's own tokenizer?"
        )
    if tokens > context:
        raise ModelError(
            f"the model's context of {context} tokens is shorter than a continuation to score ({tokens} tokens); "
            "choose other tasks (--tasks)."
        )


def _check_finite(score: float) -> None:
    """Refuses NaN and infinity."""
    if not math.isfinite(score):
        raise NonFiniteError(
            f"the model gave a log-likelihood of {score}: its weights overflow in this dtype, or are damaged; try "
            "--dtype float32."
        )
