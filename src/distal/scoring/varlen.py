"""One kernel call for sequences of different lengths, where there is such a kernel (CUDA, half precision)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distal.scoring.segments import KeyIndex, VarlenIndex

__all__ = ["VarlenKernel", "attend_varlen", "fitted_kernel", "has_varlen_kernel", "varlen_kernel"]

_HALF = (torch.bfloat16, torch.float16)


class VarlenKernel(Protocol):
    """Attention over sequences of different lengths, as `torch.nn.attention.varlen.varlen_attn` does it.

    Query (T, heads, dimension), key and value (K, key heads, dimension); causal masks and windows are aligned at the
    last query and the last key of each sequence.
    """

    def __call__(  # noqa: D102, PLR0913 - as above, and the signature is theirs
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        /,
        *,
        scale: float | None,
        window_size: tuple[int, int],
        enable_gqa: bool,
    ) -> Any: ...


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: VarlenIndex,
    *,
    scale: float | None,
    window: int | None,
    kernel: VarlenKernel,
) -> Tensor:
    """Attention over all segments in one call: (1, heads, T, D) and (1, key heads, T, D) -> (1, T, heads, D)."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if index.keys is not None:
        k, v = (cast(Tensor, _Gathered.apply(x, index.keys)) for x in (k, v))
    found = kernel(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        index.queries_end,
        index.keys_end,
        index.longest_query,
        index.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return found[None]


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel for sequences of different lengths runs on a device, in a type of numbers."""
    return device.type == "cuda" and dtype in _HALF and varlen_kernel() is not None


@cache
def varlen_kernel() -> VarlenKernel | None:
    """The kernel of this version of PyTorch, None where it has none that can do what is needed."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return fitted_kernel(varlen_attn)


def fitted_kernel(kernel: Callable[..., Any]) -> VarlenKernel | None:
    """One version's `varlen_attn` as a `VarlenKernel`; None where it lacks windows or a scale.

    PyTorch 2.10 has neither, 2.11 has both, and from 2.12 on there may be fewer key heads than query heads.
    """
    known = inspect.signature(kernel).parameters.keys()
    if not {"scale", "window_size"} <= known:
        return None
    return kernel if "enable_gqa" in known else partial(_with_equal_heads, kernel)


def _with_equal_heads(
    kernel: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *lengths: Any,
    enable_gqa: bool,
    **given: Any,
) -> Any:
    """A kernel that promises nothing for fewer key heads gets each of them as often as it is read."""
    if enable_gqa:
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, dim=1) for x in (key, value))
    return kernel(query, key, value, *lengths, **given)


class _Gathered(torch.autograd.Function):
    """Keys of all segments from the tokens, (T, heads, D) -> (K, heads, D).

    The gradient of a token that several segments read is summed in float32, always in the same order.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: KeyIndex) -> Tensor:
        """The keys."""
        ctx.index = index
        return tokens.index_select(0, index.tokens)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator renames an argument
        ctx: Any, *grad_outputs: Any
    ) -> Any:
        """Gradient by the tokens."""
        gradient, index = grad_outputs[0], ctx.index
        wide = torch.float64 if gradient.dtype == torch.float64 else torch.float32
        total = gradient.index_select(0, index.own).to(wide)
        for places, tokens in index.again:
            total.index_add_(0, tokens, gradient.index_select(0, places).to(wide))
        return total.to(gradient.dtype), None
