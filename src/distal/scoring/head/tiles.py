"""Log-probabilities and their gradients from hidden states, a tile of tokens at a time.

With z = h W^T + b, logits f(z) and p = softmax(f(z)), the log-probability of the token y that follows is

    log p_y = f(z)_y - log sum_j exp f(z)_j,        d log p_y / dz_j = (1[j = y] - p_j) f'(z_j).

A tile is all of the vocabulary for some tokens: the logits of a tile exist once and are turned into the residual
(p - 1_y) f' in place, so that nothing of the size tokens x vocabulary is kept. Shape letters: N tokens, H hidden
size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from distal.scoring.head.transform import LogitTransform

__all__ = [
    "KeptResidual",
    "Recomputed",
    "StoredGradient",
    "WeightedSum",
    "add_wide_product",
    "log_probs_only",
    "token_log_probs",
]

PRODUCT_BYTES = 2**28
"""Bytes of a product that is added to a total in a step of its own."""


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target token: (N, V), (N,) -> (N,), nats.

    Computed in float32 (float64 for float64 logits) whatever the type of the logits: a bfloat16 log-sum-exp is
    wrong by up to 0.016 nats per token, which adds up over a completion.

    Examples:
        >>> token_log_probs(torch.zeros(1, 4), torch.tensor([2])).exp().item()
        0.25
    """
    if logits.dtype != torch.float64:
        logits = logits.float()
    return -F.cross_entropy(logits, targets, reduction="none")


class _Tiles:
    """Cuts N tokens into tiles and computes each; on the CPU the same memory serves all of them.

    Fresh memory of this size comes from the operating system page by page, which would cost as much as a pass over it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, transform: LogitTransform, tile: int) -> None:
        self.weight, self.bias, self.transform, self.tile = weight, bias, transform, tile
        self._held: dict[int, Tensor] = {}

    def starts(self, n: int) -> Iterator[slice]:
        """Where the tiles of n tokens lie."""
        for start in range(0, n, self.tile):
            yield slice(start, min(start + self.tile, n))

    def log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(n,) log p_y of one tile."""
        return token_log_probs(self.transform.with_slope(self._project(hidden))[0], targets)

    def with_residual(self, hidden: Tensor, targets: Tensor, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Of one tile: (n,) log p_y in float32 or float64, and (n, V) (p - 1_y) f' / scale in the operands' type.

        The residual lasts until the next tile, unless it is to be kept.
        """
        logits, slope = self.transform.with_slope(self._project(hidden))
        room = None if keep else self._room(1, logits.shape[0], logits.dtype)
        if room is None:
            log_p = torch.log_softmax(logits, dim=-1)
        else:
            log_p = torch.ops.aten._log_softmax.out(logits, -1, False, out=room)
        at_target = log_p.gather(1, targets[:, None])
        # p_y - 1 is formed from log p_y, not by subtraction: it matters where the token is all but certain.
        residual = log_p.exp_().scatter_(1, targets[:, None], torch.expm1(at_target))
        if slope is not None:
            residual.mul_(slope)
        if residual.dtype != hidden.dtype:
            room = None if keep else self._room(2, hidden.shape[0], hidden.dtype)
            residual = residual.to(hidden.dtype) if room is None else room.copy_(residual)
        return at_target.squeeze(1), residual

    def _project(self, hidden: Tensor) -> Tensor:
        """(n, V) products in float32 (float64 for float64 operands), which the caller may overwrite.

        On CUDA the matrix product hands its float32 sums over; elsewhere they are rounded to the operands' type first.
        """
        weight, bias, n = self.weight, self.bias, hidden.shape[0]
        narrow = hidden.dtype not in (torch.float32, torch.float64)
        if hidden.is_cuda and narrow:
            z = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
            return z if bias is None else z.add_(bias)
        room = self._room(2 if narrow else 0, n, hidden.dtype)
        if room is None:
            z = F.linear(hidden, weight, bias)
        elif bias is None:
            z = torch.mm(hidden, weight.t(), out=room)
        else:
            z = torch.addmm(bias, hidden, weight.t(), out=room)
        if not narrow:
            return z
        room = self._room(0, n, torch.float32)
        return z.float() if room is None else room.copy_(z)

    def _room(self, number: int, n: int, dtype: torch.dtype) -> Tensor | None:
        """(n, V) of the memory that serves all tiles; none where the allocator holds on to memory by itself."""
        if self.weight.device.type != "cpu":
            return None
        if number not in self._held:
            self._held[number] = self.weight.new_empty(self.tile, self.weight.shape[0], dtype=dtype)
        return self._held[number][:n]


def log_probs_only(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    transform: LogitTransform,
    tile: int,
) -> Tensor:
    """(N,) log-probabilities without a graph."""
    with torch.no_grad():
        tiles = _Tiles(weight, bias, transform, tile)
        return torch.cat([tiles.log_probs(hidden[at], targets[at]) for at in tiles.starts(targets.shape[0])])


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
        tiles = _Tiles(weight, bias, transform, tile)
        for at in tiles.starts(targets.shape[0]):
            value, residual = tiles.with_residual(hidden[at], targets[at])
            torch.mm(residual, weight, out=gradient[at])
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


class KeptResidual(torch.autograd.Function):
    """Log-probabilities under a trained head, with the residual p - 1_y kept for the backward pass.

    Three matrix products. Autograd over whole logits would keep as much, and pass over it three times more.
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
        tiles = _Tiles(weight, bias, transform, tile)
        found = [
            tiles.with_residual(hidden[at], targets[at], keep=True) for at in tiles.starts(targets.shape[0])
        ]
        ctx.save_for_backward(hidden, weight, *(residual for _, residual in found))
        ctx.scale, ctx.tile, ctx.bias_dtype = transform.scale, tile, None if bias is None else bias.dtype
        return torch.cat([value for value, _ in found])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator renames an argument
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        """Gradients of the arguments of `forward`."""
        hidden, weight, *residuals = ctx.saved_tensors
        sums = _Gradients(hidden, weight, ctx.bias_dtype, tuple(ctx.needs_input_grad[:3]), len(residuals))
        weights = grad_outputs[0] * -ctx.scale
        with torch.autocast(hidden.device.type, enabled=False):
            for k, residual in enumerate(residuals):
                at = slice(k * ctx.tile, k * ctx.tile + residual.shape[0])
                sums.add(at, residual, weights[at])
        return (*sums.results(), None, None, None)


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
    tiles = _Tiles(weight, bias, transform, tile)
    cuts = list(tiles.starts(targets.shape[0]))
    sums = _Gradients(hidden, weight, None if bias is None else bias.dtype, needed, len(cuts))
    values: list[Tensor] = []
    for at in cuts:
        value, residual = tiles.with_residual(hidden[at], targets[at])
        values.append(value)
        sums.add(at, residual, weights[at] * -transform.scale)
    return torch.cat(values), sums.results()


class _Gradients:
    """Gradients by hidden states, matrix and bias, added up tile by tile."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias_dtype: torch.dtype | None,
        needed: tuple[bool, ...],
        n_tiles: int,
    ) -> None:
        self.hidden, self.weight, self.needed, self.n_tiles = hidden, weight, needed, n_tiles
        self.bias_dtype = bias_dtype
        self.by_hidden = torch.empty_like(hidden) if needed[0] else None
        self.by_weight: Tensor | None = None
        self.by_bias: Tensor | None = None

    def add(self, at: slice, residual: Tensor, weights: Tensor) -> None:
        """Add what a tile gives, from its (n, V) residual and the (n,) weights of its tokens."""
        if self.by_hidden is not None:
            # Rows are scaled after the product or before it, where they are short.
            self.by_hidden[at] = _scaled(torch.mm(residual, self.weight), weights)
        if self.needed[1]:
            product = residual.t(), _scaled(self.hidden[at], weights)
            self.by_weight = _add_product(self.by_weight, *product, keep_type=self.n_tiles == 1)
        if self.needed[2]:
            wide = torch.float64 if residual.dtype == torch.float64 else torch.float32
            part = torch.mv(residual.t().to(wide), weights.to(wide))
            self.by_bias = part if self.by_bias is None else self.by_bias.add_(part)

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients in the types of what they belong to; None where none was wanted."""
        by_weight = None if self.by_weight is None else self.by_weight.to(self.weight.dtype)
        by_bias = None if self.by_bias is None else self.by_bias.to(self.bias_dtype)
        return self.by_hidden, by_weight, by_bias


def _add_product(total: Tensor | None, a: Tensor, b: Tensor, *, keep_type: bool) -> Tensor:
    """`total + a b`, summed over tiles in float32 (float64 for float64 operands)."""
    if keep_type or a.dtype in (torch.float32, torch.float64):
        return torch.mm(a, b) if total is None else total.addmm_(a, b)
    if a.is_cuda:
        if total is None:
            return torch.mm(a, b, out_dtype=torch.float32)
        return add_wide_product(total, a, b)
    part = torch.mm(a, b)
    return part.float() if total is None else total.add_(part)


def add_wide_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`total += a b` for a float32 total and narrower operands, whose products are summed in float32 (CUDA)."""
    if _adds_wide_products(a.device, a.dtype):
        return torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    # Some rows at a time, so that the product is never there as a whole beside the total.
    step = max(1, PRODUCT_BYTES // (4 * b.shape[1]))
    for rows, part in zip(a.split(step), total.split(step), strict=True):
        part.add_(torch.mm(rows, b, out_dtype=torch.float32))
    return total


@cache
def _adds_wide_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this version of PyTorch adds products to a total of another type: some want it in the operands' type."""
    total, a = torch.zeros(8, 8, device=device), torch.zeros(8, 8, dtype=dtype, device=device)
    try:
        torch.addmm(total, a, a, out_dtype=torch.float32, out=total)
    except RuntimeError:
        return False
    return True


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Rows of a gradient times their factors, or all of it times one, in the gradient's type."""
    return (gradient * (factor[:, None] if factor.ndim else factor)).to(gradient.dtype)
