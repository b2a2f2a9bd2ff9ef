"""Log-probabilities and their gradients from hidden states, a tile of tokens at a time.

With z = h W^T + b, logits f(z) and p = softmax(f(z)), the log-probability of the token y that follows is

    log p_y = f(z)_y - log sum_j exp f(z)_j,        d log p_y / dz_j = (1[j = y] - p_j) f'(z_j).

A tile is all of the vocabulary for some tokens: the logits of a tile exist once and are turned into the residual
(p - 1_y) f' in place, so that nothing of the size tokens x vocabulary is kept. Shape letters: N tokens, H hidden
size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from distal.scoring.head.transform import LogitTransform

__all__ = ["Recomputed", "StoredGradient", "WeightedSum", "log_probs_only", "token_log_probs"]


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


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(n, V) products in float32 (float64 for float64 operands), which the caller may overwrite.

    On CUDA the matrix product hands its float32 sums over; elsewhere they are rounded to the operands' type first.
    """
    if hidden.is_cuda and hidden.dtype in (torch.bfloat16, torch.float16):
        z = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        return z if bias is None else z.add_(bias)
    z = F.linear(hidden, weight, bias)
    return z if z.dtype == torch.float64 else z.float()


def log_probs_only(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    tile: int,
) -> Tensor:
    """(N,) log-probabilities without a graph."""
    return torch.cat(
        [
            token_log_probs(transform.with_slope(project(h, weight, bias))[0], y)
            for h, y in zip(hidden.split(tile), targets.split(tile), strict=True)
        ]
    )


def _log_probs_and_residual(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, transform: LogitTransform
) -> tuple[Tensor, Tensor]:
    """Of one tile: (n,) log p_y in float32 or float64, and (n, V) (p - 1_y) f' / scale in the operands' type."""
    logits, slope = transform.with_slope(project(hidden, weight, bias))
    log_p = torch.log_softmax(logits, dim=-1)
    del logits
    at_target = log_p.gather(1, targets[:, None])
    # p_y - 1 is formed from log p_y, not by subtraction: it matters where the token is all but certain.
    residual = log_p.exp_().scatter_(1, targets[:, None], torch.expm1(at_target))
    if slope is not None:
        residual.mul_(slope)
    return at_target.squeeze(1), residual.to(hidden.dtype)


class StoredGradient(torch.autograd.Function):
    """Log-probabilities under a frozen head, with d log p_y / dh formed at once and kept in place of h.

    The gradient does not depend on the loss, so the backward pass only multiplies it by the coefficient that
    arrives: two matrix products where recomputing the logits takes three.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        tile: int,
    ) -> Tensor:
        """(N,) log-probabilities."""
        values: list[Tensor] = []
        gradient = torch.empty_like(hidden)
        for h, y, g in zip(hidden.split(tile), targets.split(tile), gradient.split(tile), strict=True):
            value, residual = _log_probs_and_residual(h, weight, bias, y, transform)
            torch.mm(residual, weight, out=g)
            values.append(value)
        ctx.save_for_backward(gradient)
        ctx.scale = transform.scale
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator renames an argument
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        """Gradients of the arguments of `forward`."""
        (gradient,) = ctx.saved_tensors
        return _scaled(gradient, grad_outputs[0] * -ctx.scale), None, None, None, None, None


class WeightedSum(torch.autograd.Function):
    """`sum_t w_t log p_t` for weights that are known beforehand, with all gradients formed in the forward pass.

    Three matrix products for a trained head where recomputing the logits in the backward pass takes four.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        transform: LogitTransform,
        tile: int,
    ) -> Tensor:
        """The 0-d sum."""
        needed = tuple(ctx.needs_input_grad[:3])
        values, gradients = _gradients(hidden, weight, bias, targets, weights, transform, tile, needed)
        ctx.present = tuple(g is not None for g in gradients)
        ctx.save_for_backward(*(g for g in gradients if g is not None))
        return values @ weights.to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator renames an argument
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        """Gradients of the arguments of `forward`."""
        saved = iter(ctx.saved_tensors)
        gradients = [_scaled(next(saved), grad_outputs[0]) if there else None for there in ctx.present]
        return (*gradients, None, None, None, None)


class Recomputed(torch.autograd.Function):
    """Log-probabilities whose backward pass computes the logits again, tile by tile.

    Four matrix products for a trained head; for when the coefficients are not known and the logits do not fit.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        tile: int,
    ) -> Tensor:
        """(N,) log-probabilities."""
        ctx.save_for_backward(hidden, weight, targets, *(() if bias is None else (bias,)))
        ctx.transform, ctx.tile = transform, tile
        return log_probs_only(hidden, weight, bias, targets, transform, tile)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator renames an argument
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        """Gradients of the arguments of `forward`."""
        hidden, weight, targets, *rest = ctx.saved_tensors
        bias = rest[0] if rest else None
        needed = tuple(ctx.needs_input_grad[:3])
        with torch.autocast(hidden.device.type, enabled=False):
            _, gradients = _gradients(
                hidden, weight, bias, targets, grad_outputs[0], ctx.transform, ctx.tile, needed
            )
        return (*gradients, None, None, None)


def _gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    transform: LogitTransform,
    tile: int,
    needed: tuple[bool, ...],
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """(N,) log-probabilities, and the gradients of `sum_t w_t log p_t` by hidden states, matrix and bias."""
    values: list[Tensor] = []
    by_hidden = torch.empty_like(hidden) if needed[0] else None
    by_weight: Tensor | None = None
    by_bias: Tensor | None = None
    n_tiles = -(-hidden.shape[0] // tile)
    for k, (h, y, w) in enumerate(
        zip(hidden.split(tile), targets.split(tile), weights.split(tile), strict=True)
    ):
        value, residual = _log_probs_and_residual(h, weight, bias, y, transform)
        values.append(value)
        w = w * -transform.scale
        if by_hidden is not None:
            by_hidden[k * tile : k * tile + h.shape[0]] = _scaled(torch.mm(residual, weight), w)
        if needed[1]:
            by_weight = _add_product(by_weight, residual.t(), _scaled(h, w), keep_type=n_tiles == 1)
        if needed[2]:
            part = torch.mv(residual.t().to(value.dtype), w.to(value.dtype))
            by_bias = part if by_bias is None else by_bias.add_(part)
    by_weight = None if by_weight is None else by_weight.to(weight.dtype)
    by_bias = None if by_bias is None or bias is None else by_bias.to(bias.dtype)
    return torch.cat(values), (by_hidden, by_weight, by_bias)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor, *, keep_type: bool) -> Tensor:
    """`total + a b`, summed over tiles in float32 (float64 for float64 operands)."""
    if keep_type or a.dtype in (torch.float32, torch.float64):
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    if a.is_cuda:
        if total is None:
            return torch.mm(a, b, out_dtype=torch.float32)
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    part = torch.mm(a, b)
    return part.float() if total is None else total.add_(part)


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Rows of a gradient times their factors, or all of it times one, in the gradient's type."""
    return (gradient * (factor[:, None] if factor.ndim else factor)).to(gradient.dtype)
