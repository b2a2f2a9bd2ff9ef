"""Attention over segments: a model's own attention, asked for one segment at a time.

Models of transformers look two functions up by the name of their attention implementation: one makes the mask from
the model's rule of who may read whom (causal, sliding window, chunks), the other attends. Both are registered here
under names of their own. While a forward pass over segments runs,

- the mask is the model's rule evaluated at *positions*, which is what the rule means, not at places in the row. It is
  made once, for one sequence as long as the longest, and each segment takes its part of it;
- attention calls the model's own function on each segment with the keys that it reads, so that soft caps, sinks and
  scales stay as their authors wrote them, and no work is done across segments. On CUDA, in half precision, one call
  of a kernel for sequences of different lengths does the same.

Without segments both do what the model would have done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from distal.errors import ModelError
from distal.scoring.rules import Rule, window_or_grid
from distal.scoring.segments import Segments, VarlenIndex
from distal.scoring.varlen import attend_varlen, has_varlen_kernel, varlen_kernel

__all__ = [
    "SegmentedMask",
    "attending_to",
    "attention_name",
    "is_compiled",
    "is_flash",
    "is_known",
    "needs_padding_mask",
    "noting_slow_attention",
    "register_attention",
    "unwrap",
]

_PREFIX = "distal_"
_KNOWN = ("sdpa", "eager")
_FLASH = "flash_attention"
_LARGEST_HEAD = 256
"""Dimensions of a head that kernels for sequences of different lengths take."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What the forward pass that is under way reads."""

    segments: Segments
    varlen: VarlenIndex


_read: ContextVar[_Read | None] = ContextVar("read", default=None)
_slow: ContextVar[list[str] | None] = ContextVar("slow", default=None)


@dataclass(frozen=True)
class SegmentedMask:
    """What the layers of a model get in place of a mask.

    Attributes:
        segments: of the row.
        window: how many positions a token sees, itself included; None for all before it. Only where `rule` is None.
        rule: (L, L) bool over positions, for rules that are neither causal nor a window.
        dtype: None for boolean masks, else the type of masks that are added to the attention's logits.
        device: of the masks.
        varlen: lengths and keys for a kernel that takes all segments at once, on the same device.
    """

    segments: Segments
    window: int | None
    rule: Tensor | None
    dtype: torch.dtype | None
    device: torch.device
    varlen: VarlenIndex

    @cached_property
    def by_position(self) -> Tensor:
        """(L, L) mask of one sequence as long as the longest."""
        allowed = self.rule
        if allowed is None:
            positions = torch.arange(self.segments.n_positions, device=self.device)
            distance = positions[:, None] - positions
            allowed = distance >= 0
            if self.window is not None:
                allowed &= distance < self.window
        if self.dtype is None:
            return allowed
        return torch.zeros(allowed.shape, dtype=self.dtype, device=self.device).masked_fill_(
            ~allowed, torch.finfo(self.dtype).min
        )

    def of(self, segment: int) -> Tensor | None:
        """(1, 1, n, m + n) mask of one segment; None where attention that is causal by itself does."""
        offset, length = self.segments.offsets[segment], self.segments.lengths[segment]
        plain = self.rule is None and (self.window is None or self.window >= offset + length)
        if plain and offset == 0 and self.dtype is None:
            return None
        return self.by_position[None, None, offset : offset + length, : offset + length]


@contextmanager
def attending_to(model: nn.Module, segments: Segments, varlen: VarlenIndex) -> Generator[dict[str, Any]]:
    """While open, forward passes of a model read one row made of these segments.

    Args:
        model: of transformers, possibly wrapped, with attention `sdpa` or `eager`; or, where no segment has a parent,
            FlashAttention.
        segments: of the row.
        varlen: their `varlen_index`, on the model's device.

    Yields:
        What the forward pass must be given beside tokens and positions.

    Raises:
        ModelError: the model has another kind of attention.
    """
    device = next(model.parameters()).device
    if is_flash(model):
        yield _flash_arguments(varlen)
        return
    register_attention()
    configs = {
        id(c): c for m in model.modules() if hasattr(c := getattr(m, "config", None), "_attn_implementation")
    }
    before = {key: _get(config) for key, config in configs.items()}
    names = {key: name if name.startswith(_PREFIX) else _PREFIX + name for key, name in before.items()}
    unknown = {name for name in names.values() if name.removeprefix(_PREFIX) not in _KNOWN}
    if unknown or not configs:
        raise ModelError(
            f"segments need attention of the kind {' or '.join(_KNOWN)}, and this model has "
            f"{', '.join(sorted(n.removeprefix(_PREFIX) for n in unknown)) or 'none that can be chosen'}"
        )
    for key, config in configs.items():
        _set(config, names[key])
    token = _read.set(_Read(segments, varlen))
    try:
        # With a mask given, models do not look for several sequences in the positions: the segments say it all.
        yield {"attention_mask": torch.ones(1, segments.n_tokens, dtype=torch.long, device=device)}
    finally:
        _read.reset(token)
        # Checkpointed layers run again in the backward pass, and look their attention up then.
        if not (torch.is_grad_enabled() and _checkpointed(model)):
            for key, config in configs.items():
                _set(config, before[key])


@contextmanager
def noting_slow_attention() -> Generator[list[str]]:
    """While open, layers that take segments one by one, instead of all in one call, say so and why."""
    found: list[str] = []
    token = _slow.set(found)
    try:
        yield found
    finally:
        _slow.reset(token)


def attention_name(model: nn.Module) -> str:
    """Name of a model's attention implementation, as its configuration had it at first."""
    return _get(getattr(model, "config", None)).removeprefix(_PREFIX)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside data-parallel and compilation wrappers (a PEFT model stays a PEFT model)."""
    while True:
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of this very module go through `torch.compile`."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def is_known(model: nn.Module) -> bool:
    """Whether a model's attention is of a kind that can be asked segment by segment."""
    return attention_name(unwrap(model)) in _KNOWN


def is_flash(model: nn.Module) -> bool:
    """Whether a model's attention is FlashAttention as transformers calls it."""
    return attention_name(unwrap(model)).startswith(_FLASH)


def needs_padding_mask(model: nn.Module) -> bool:
    """Whether padding on the right must be masked for the scores of the tokens before it to be right.

    Where all attention is causal, no token sees what comes after it, and the mask is left out: kernels that are causal
    by themselves are faster, and no token of the padding is left without anything to read. (Where a window holds
    nothing but padding, softmax over nothing can be NaN, which the next layer multiplies by zero and adds.)
    FlashAttention drops padding by the mask; models that carry a state, and adapters that put tokens of their own
    before a row, are left as their authors wrote them.
    """
    inner: Any = unwrap(model)
    base: Any = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    adapters: Any = getattr(inner, "peft_config", {})
    causal = [module.is_causal for module in base.modules() if hasattr(module, "is_causal")]
    return not (
        bool(causal)
        and all(found is True for found in causal)
        and is_known(model)
        and getattr(base, "_supports_attention_backend", False)
        and not getattr(base, "_is_stateful", False)
        and not any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters.values())
    )


def _flash_arguments(index: VarlenIndex) -> dict[str, Any]:
    """What FlashAttention in transformers takes in place of a mask."""
    if index.keys is not None:
        raise ModelError(
            "FlashAttention as transformers calls it shares no prompts; use layout: packed, or attention sdpa"
        )
    return {
        "attention_mask": None,
        "cu_seq_lens_q": index.queries_end,
        "cu_seq_lens_k": index.keys_end,
        "max_length_q": index.longest_query,
        "max_length_k": index.longest_key,
    }


@cache
def register_attention() -> tuple[str, ...]:
    """Make the two functions known to transformers; the names by which it finds them."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for kind in _KNOWN:
        AttentionInterface.register(_PREFIX + kind, partial(_attend, kind))
        AttentionMaskInterface.register(_PREFIX + kind, partial(_mask, kind))
    return tuple(_PREFIX + kind for kind in _KNOWN)


def _mask(kind: str, **given: Any) -> Any:
    """The mask function of transformers' interface: one call for each kind of layer, before the layers run."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

    read = _read.get()
    if read is None:
        return ALL_MASK_ATTENTION_FUNCTIONS[kind](**given)
    segments = read.segments
    if given["batch_size"] != 1 or not given["q_length"] == given["kv_length"] == segments.n_tokens:
        raise ModelError("the model asks for a mask of another shape than the row that it reads")
    if given.get("use_vmap"):
        raise ModelError("the model adds a mask of its own, which may not go by position")
    rule: Rule = given.get("mask_function", causal_mask_function)
    device = torch.device(given.get("device", "cpu"))
    dtype = given.get("dtype", torch.float32) if kind == "eager" else None
    if rule is causal_mask_function:
        return SegmentedMask(segments, None, None, dtype, device, read.varlen)
    window, allowed = window_or_grid(rule, segments.n_positions, device)
    return SegmentedMask(segments, window, allowed, dtype, device, read.varlen)


def _attend(
    kind: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **given: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers' interface: (1, heads, T, D) -> (1, T, heads, D)."""
    attend = _own_function(kind, module)
    if not isinstance(attention_mask, SegmentedMask):
        return attend(module, query, key, value, attention_mask, **given)
    if given.get("position_bias") is not None:
        raise ModelError("the model adds a bias to attention, which does not go by position")
    mask = attention_mask
    dtype = _type_under_autocast(query)
    reason = _why_no_kernel(kind, mask, query, value, dtype, given)
    kernel = varlen_kernel() if reason is None else None
    if kernel is not None:
        q, k, v = (x.to(dtype) for x in (query, key, value))
        scale = given.get("scaling")
        return attend_varlen(q, k, v, mask.varlen, scale=scale, window=mask.window, kernel=kernel), None
    slow = _slow.get()
    if slow is not None:
        slow.append(f"{type(module).__name__}: {reason}")
    lengths = list(mask.segments.lengths)
    # Splitting, unlike slicing, has a backward pass that costs one copy however many parts there are.
    q, k, v = (x.split(lengths, dim=2) for x in (query, key, value))
    parts = [
        attend(module, q[s], _joined(k, chain), _joined(v, chain), mask.of(s), **given)[0]
        for s, chain in enumerate(mask.segments.chains)
    ]
    return torch.cat(parts, dim=1), None


def _joined(parts: tuple[Tensor, ...], chain: tuple[int, ...]) -> Tensor:
    return parts[chain[0]] if len(chain) == 1 else torch.cat([parts[k] for k in chain], dim=2)


def _type_under_autocast(query: Tensor) -> torch.dtype:
    """The type that attention `sdpa` computes in: mixed precision casts its operands, whatever type they come in."""
    kind = query.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if mixed and query.dtype != torch.float64 else query.dtype


def _why_no_kernel(
    kind: str, mask: SegmentedMask, query: Tensor, value: Tensor, dtype: torch.dtype, given: dict[str, Any]
) -> str | None:
    """Why the segments are attended to one by one; None where one call of a kernel does."""
    sizes = query.shape[-1], value.shape[-1]
    reasons = {
        f"attention {kind}": kind != "sdpa",
        f"no kernel on {query.device.type} in {dtype}": not has_varlen_kernel(query.device, dtype),
        "a rule that is no window": mask.rule is not None,
        "dropout": bool(given.get("dropout")),
        "a soft cap": given.get("softcap") is not None,
        f"heads of {sizes[0]} and {sizes[1]} dimensions": sizes[0] != sizes[1] or sizes[0] > _LARGEST_HEAD,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _own_function(kind: str, module: nn.Module) -> Callable[..., Any]:
    from transformers import AttentionInterface

    if kind != "eager":
        return AttentionInterface()[kind]
    for source in type(module).__mro__:  # wrappers make classes of their own above the model's
        own = getattr(sys.modules[source.__module__], "eager_attention_forward", None)
        if own is not None:
            return own
    raise ModelError(f"{type(module).__name__} has no attention function of its own to call")


def _get(config: Any) -> str:
    return str(getattr(config, "_attn_implementation", None))


def _set(config: Any, name: str) -> None:
    config._attn_implementation_internal = name


def _checkpointed(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
