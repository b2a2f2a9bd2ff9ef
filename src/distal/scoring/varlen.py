"""One kernel call for sequences of different lengths, where there is such a kernel (CUDA, half precision)."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from distal.scoring.segments import VarlenIndex

__all__ = ["VarlenKernel", "attend_varlen", "has_varlen_kernel", "varlen_kernel"]

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
        k, v = k[index.keys], v[index.keys]
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
    """The kernel of this version of PyTorch, None where it has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn  # pyright: ignore[reportReturnType] - more arguments than are used here
