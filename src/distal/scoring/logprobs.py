"""Scores: the summed log-probability of a completion given its prompt.

    log pi(y | x) = sum_t log softmax(logits_t)[y_t]        over the completion tokens, nats

Only completion positions reach the language-model head. The head is not called by us: a hook on it drops all other
positions on their way in, and the model's own forward does the rest. So whatever a model does around its head
(scaling, soft-capping, adapters, wrappers for data parallelism or mixed precision) stays as its authors wrote it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distal.errors import ModelError
from distal.scoring.attention import attending_to, unwrap
from distal.scoring.layouts import PADDED, LaidOutBatch, Layout, pad_rows
from distal.types import TokenRow

__all__ = ["mean_token_entropy", "score_rows", "token_log_probs", "unwrap"]

_ENTROPY_POSITIONS = 256
"""Positions whose log-probabilities over the whole vocabulary are held at a time."""


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target token: (N, V), (N,) -> (N,), nats.

    Computed in float32 (float64 for float64 logits) whatever the type of the logits: a bfloat16 log-sum-exp is
    wrong by up to 0.016 nats per token, which adds up over a completion.

    Example:
        >>> token_log_probs(torch.zeros(1, 4), torch.tensor([2])).exp().item()
        0.25
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    return -F.cross_entropy(logits, targets, reduction="none")


def score_rows(model: nn.Module, rows: Sequence[TokenRow], layout: Layout = PADDED) -> Tensor:
    """Scores of all rows from one forward pass, differentiable in the model's parameters.

    Args:
        model: a causal language model, possibly wrapped (DDP, PEFT).
        rows: R rows.
        layout: how they are laid out; with padding, give rows of similar length. Other layouts are for models that
            `choose_layout` found to be right with them.

    Returns:
        (R,) summed completion log-probabilities, nats, float32 (float64 for a float64 model).

    Raises:
        ModelError: the model has no language-model head through which its logits pass.
    """
    batch = layout.lay_out(rows, device=_device(model))
    return batch.sum_by_row(token_log_probs(_completion_logits(model, batch), batch.targets))


@torch.no_grad()
def mean_token_entropy(model: nn.Module, rows: Sequence[TokenRow]) -> float:
    """Mean entropy of the model's next token, `-sum_w p(w) log p(w)`, at the completion positions of all rows.

    The contexts are those of the rows, not of the model's own generations. Rows pass through one by one: this is
    for a few of them.

    Args:
        model: a causal language model, possibly wrapped.
        rows: at least one.

    Returns:
        Nats per token; at most the logarithm of the vocabulary's size.
    """
    total, count = 0.0, 0
    for row in rows:
        logits = _completion_logits(model, pad_rows([row], device=_device(model)))
        for part in logits.split(_ENTROPY_POSITIONS):
            probabilities = (part if part.dtype == torch.float64 else part.float()).softmax(dim=-1)
            total += float(torch.special.entr(probabilities).sum())
        count += logits.shape[0]
    return total / count


def _forward(model: nn.Module, batch: LaidOutBatch) -> Any:
    if batch.segments is None:
        # Without padding a plain causal mask does; passing none lets the model take its fastest attention kernel.
        mask = None if batch.attention_mask is None else batch.attention_mask.long()
        return model(input_ids=batch.input_ids, attention_mask=mask, use_cache=False)
    with attending_to(model, batch.segments) as given:
        return model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **given)


def _completion_logits(model: nn.Module, batch: LaidOutBatch) -> Tensor:
    """(N, vocabulary) logits at the places that predict a completion token."""
    with _head_reads_only(batch, _head(model)):
        output = _forward(model, batch)
    logits = cast(Tensor, output.logits)
    if logits.ndim != 2 or logits.shape[0] != batch.targets.shape[0]:
        raise ModelError(
            f"{type(unwrap(model)).__name__} returned logits of shape {tuple(logits.shape)} where "
            f"({batch.targets.shape[0]}, vocabulary) was expected: its logits do not pass through "
            "get_output_embeddings(). Such architectures cannot be scored yet."
        )
    return logits


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _head(model: nn.Module) -> nn.Module:
    inner: Any = unwrap(model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        raise ModelError(
            f"{type(inner).__name__} has no output embeddings (language-model head); "
            "give a causal language model, as AutoModelForCausalLM loads it"
        )
    return head


@contextmanager
def _head_reads_only(batch: LaidOutBatch, head: nn.Module) -> Generator[None]:
    """While open, the head sees the (N, hidden) states at the batch's predictions instead of all (B, T, hidden)."""

    def select(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_at(batch, args[0]), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _at(batch: LaidOutBatch, hidden: Tensor) -> Tensor:
    """(N, hidden) states at the places that predict a completion token."""
    if hidden.shape[:2] != batch.input_ids.shape:
        raise ModelError(
            f"the head received hidden states of shape {tuple(hidden.shape)} for a batch of shape "
            f"{tuple(batch.input_ids.shape)}; such architectures cannot be scored yet"
        )
    return hidden.flatten(0, 1)[batch.predictions]
