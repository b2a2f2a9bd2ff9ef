"""Scores: the summed log-probability of a completion given its prompt.

    log pi(y | x) = sum_t log softmax(logits_t)[y_t]        over the scored completion tokens, nats

Only positions of scored completion tokens reach the language-model head. A hook on it takes the states on their way
in; where the head is one matrix and what the model does to its logits is known, log-probabilities are computed from
those states (`distal.scoring.head`), without keeping logits. Elsewhere (adapters on the head, sharded weights, logits
that are something else) the hook only drops the other positions, and the model's own forward does the rest as its
authors wrote it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from distal.errors import ModelError
from distal.scoring.attention import attending_to, needs_padding_mask, unwrap
from distal.scoring.head import (
    LogitTransform,
    head_log_probs,
    head_of,
    plain_head,
    states_before_head,
    token_log_probs,
    weighted_sum,
)
from distal.scoring.laid_out import LaidOutBatch
from distal.scoring.layouts import PADDED, Layout, pad_rows
from distal.scoring.transfer import sent_to
from distal.types import TokenRow

__all__ = ["mean_token_entropy", "score_rows", "token_log_probs", "unwrap", "weighted_score"]

_ENTROPY_POSITIONS = 256
"""Positions whose log-probabilities over the whole vocabulary are held at a time."""


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
    return batch.sum_by_row(_completion_log_probs(model, batch))


def weighted_score(
    model: nn.Module, rows: Sequence[TokenRow], weights: Tensor, layout: Layout = PADDED
) -> Tensor:
    """`sum_i w_i s_i` over the scores s of all rows, differentiable in the model's parameters.

    The same as `(weights * score_rows(model, rows, layout)).sum()`, but since the weights are known beforehand a
    trained head's gradients are formed in the forward pass: three matrix products instead of four, and no logits
    kept. Call it only where a backward pass follows.

    Args:
        model: a causal language model, possibly wrapped (DDP, PEFT).
        rows: R rows.
        weights: (R,) without gradient.
        layout: as for `score_rows`.

    Returns:
        0-d, nats.
    """
    batch = layout.lay_out(rows, device=_device(model))
    weights = sent_to(_device(model), weights)
    transform = _transform(model, batch)
    if transform is not None:
        states, dtype = _completion_states(model, batch)
        head: Any = head_of(model)
        if dtype != torch.float16:  # whose loss scale must come in before gradients are formed
            by_token = _weights_of_tokens(batch, weights)
            return weighted_sum(
                states,
                head.weight,
                head.bias,
                batch.targets,
                by_token,
                transform=transform,
                compute_dtype=dtype,
            )
        log_probs = _log_probs_of_states(model, batch, states, dtype, transform)
    else:
        log_probs = token_log_probs(_completion_logits(model, batch), batch.targets)
    scores = batch.sum_by_row(log_probs)
    return (scores * weights).sum()


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


def _completion_log_probs(model: nn.Module, batch: LaidOutBatch) -> Tensor:
    """(N,) log-probabilities of the completion tokens, in the order of `batch.targets`."""
    transform = _transform(model, batch)
    if transform is None:
        return token_log_probs(_completion_logits(model, batch), batch.targets)
    return _log_probs_of_states(model, batch, *_completion_states(model, batch), transform)


def _transform(model: nn.Module, batch: LaidOutBatch) -> LogitTransform | None:
    """What happens to the logits, where they may be computed here."""
    return plain_head(model, head_of(model), batch.input_ids.flatten())


def _completion_states(model: nn.Module, batch: LaidOutBatch) -> tuple[Tensor, torch.dtype]:
    """(N, hidden) states from which the completion tokens are predicted, and the type the head multiplies in."""
    with states_before_head(head_of(model), partial(_at, batch)) as held:
        _forward(model, batch)
    return held.only()


def _log_probs_of_states(
    model: nn.Module, batch: LaidOutBatch, states: Tensor, dtype: torch.dtype, transform: LogitTransform
) -> Tensor:
    head: Any = head_of(model)
    return head_log_probs(
        states, head.weight, head.bias, batch.targets, transform=transform, compute_dtype=dtype
    )


def _weights_of_tokens(batch: LaidOutBatch, weights: Tensor) -> Tensor:
    """(N,) what each token counts in a sum of rows with these weights: the transpose of `sum_by_row`."""
    with torch.enable_grad():
        tokens = torch.zeros(batch.targets.shape[0], dtype=weights.dtype, device=weights.device)
        total = batch.sum_by_row(tokens.requires_grad_()) @ weights
    return torch.autograd.grad(total, tokens)[0]


def _forward(model: nn.Module, batch: LaidOutBatch) -> Any:
    if batch.segments is None or batch.varlen is None:
        # Without a mask the model takes its fastest attention kernel.
        padded = batch.attention_mask is not None and needs_padding_mask(model)
        mask = cast(Tensor, batch.attention_mask).long() if padded else None
        return model(input_ids=batch.input_ids, attention_mask=mask, use_cache=False)
    with attending_to(model, batch.segments, batch.varlen) as given:
        return model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **given)


def _completion_logits(model: nn.Module, batch: LaidOutBatch) -> Tensor:
    """(N, vocabulary) logits at the places that predict a completion token."""
    with _head_reads_only(batch, head_of(model)):
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
