"""Which layout a model can be scored in: what its configuration says, and then a trial.

A layout is taken for right only when the model itself has shown it: three short rows, of which two share their
prompt, must score in it as they do one by one, and the score of one must not move when the others are replaced.
The first finds positions, windows and masks that come out otherwise; the second finds what leaks from row to row
(recurrent states, convolutions), however little. An architecture that nobody has thought of is thereby as safe as a
known one: it is scored in padded rows unless it passes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distal.errors import ConfigError
from distal.scoring.attention import (
    attention_name,
    is_compiled,
    is_flash,
    is_known,
    noting_slow_attention,
    unwrap,
)
from distal.scoring.dataset import autocast, evaluating
from distal.scoring.layouts import PACKED, PADDED, PREFIX_SHARED, Layout, PrefixShared
from distal.scoring.logprobs import score_rows
from distal.scoring.precision import compute_dtype, score_noise
from distal.scoring.sharing import word_from_first_rank
from distal.scoring.varlen import has_varlen_kernel
from distal.types import TokenRow

__all__ = ["LAYOUT_NAMES", "LayoutName", "choose_layout", "trial_rows", "why_padded"]

logger = logging.getLogger(__name__)

LayoutName = Literal["auto", "padded", "packed", "prefix_shared"]
LAYOUT_NAMES: tuple[str, ...] = get_args(LayoutName)

_BY_NAME: dict[str, Layout] = {layout.name: layout for layout in (PADDED, PACKED, PREFIX_SHARED)}
_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "dense", "sparse"}
_CHANGING_ROPE = ("dynamic", "longrope")
_WINDOWS = ("sliding_window", "attention_chunk_size")
_LONGEST_TRIAL = 512
"""Windows up to this size are filled by a row of the trial; longer ones are left to the rules of the masks."""
_SHORT_TRIAL = 24
NOISE_ALLOWED = 16
"""Multiples of the typical rounding that a trial may be off."""
_LEAK = 1e-3
"""Nats that a score may move when another row is replaced: the same numbers go through the same operations."""


def choose_layout(
    name: str,
    models: Sequence[nn.Module],
    *,
    autocast_dtype: torch.dtype | None = None,
) -> Layout:
    """The layout that all models are scored in, after a trial of each; the choice and its reason are logged.

    Args:
        name: `auto` for the one that is fastest where the models are, else the one that is wanted. Where that is
            wrong for a model, or cannot be found right, the layout is padded, and a warning says why.
        models: the policy, and a reference that is a model of its own.
        autocast_dtype: mixed precision, as in scoring.

    Raises:
        ConfigError: there is no layout of this name.
    """
    if name not in LAYOUT_NAMES:
        raise ConfigError(f"layout: {name!r} is unknown; choose one of {', '.join(LAYOUT_NAMES)}")
    if name == "padded":
        return PADDED
    wanted, why = (_BY_NAME[name], "as set") if name != "auto" else _fastest(models[0], autocast_dtype)
    found: Layout = wanted
    level = logging.INFO
    # Where segments would be attended to one by one on an accelerator, padding is faster.
    in_one_call = name == "auto" and next(models[0].parameters()).device.type != "cpu"
    for model in models:
        reason, failure = None, None
        if wanted != PADDED:
            reason, failure = _objection(model, wanted, autocast_dtype, in_one_call=in_one_call)
        # One rank speaks for all: they must make the same passes.
        reason = word_from_first_rank(reason or "") or None
        if reason is not None:
            found, why = PADDED, f"{wanted.name} is not for this model: {reason}"
            # A call that does not fit is a fault of this library, or of a version that it does not know.
            if name != "auto" or isinstance(failure, TypeError | AttributeError):
                level = logging.WARNING
            break
    logger.log(level, "layout %s: %s", found.name, why)
    return found


def why_padded(
    model: nn.Module,
    layout: Layout,
    autocast_dtype: torch.dtype | None = None,
    *,
    in_one_call: bool = False,
) -> str | None:
    """Why a model must not be scored in a layout; None where nothing speaks against it, a trial included.

    Args:
        model: a causal language model.
        layout: that is asked about.
        autocast_dtype: mixed precision, as in scoring.
        in_one_call: whether it speaks against the layout that attention takes segments one by one. That is right, and
            slow on an accelerator.
    """
    return _objection(model, layout, autocast_dtype, in_one_call=in_one_call)[0]


def _objection(
    model: nn.Module, layout: Layout, autocast_dtype: torch.dtype | None, *, in_one_call: bool
) -> tuple[str | None, Exception | None]:
    """What speaks against a layout, and the exception by which a trial failed."""
    stated = _stated_reason(model, layout)
    if stated is not None:
        return stated, None
    try:
        return _trial(model, layout, autocast_dtype, in_one_call=in_one_call), None
    except Exception as error:  # whatever it is, the model cannot be scored in this way
        logger.debug("the trial of layout %s failed", layout.name, exc_info=True)
        return f"a trial failed ({type(error).__name__}: {error})", error


def _fastest(model: nn.Module, autocast_dtype: torch.dtype | None) -> tuple[Layout, str]:
    device = next(model.parameters()).device
    if device.type == "cpu":
        return PREFIX_SHARED, "no padding, and prompts once; on a CPU time follows tokens"
    if is_flash(model):
        return PACKED, "no padding, with FlashAttention"
    if attention_name(unwrap(model)) == "sdpa" and has_varlen_kernel(
        device, compute_dtype(model, autocast_dtype)
    ):
        return (
            PREFIX_SHARED,
            "no padding, and prompts once, with attention over sequences of different lengths",
        )
    return PADDED, f"no attention over sequences of different lengths on {device.type} in this precision"


def _stated_reason(model: nn.Module, layout: Layout) -> str | None:
    """What class and configuration say against it."""
    inner: Any = unwrap(model)
    base: Any = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    configs = list(_configs(base))
    adapters: Any = getattr(inner, "peft_config", {})
    kinds = {kind for c in configs for kind in getattr(c, "layer_types", None) or ()} - _LAYERS
    reasons = {
        "it is no model of transformers": not configs,
        "it is compiled, for rows of one shape": any(map(is_compiled, model.modules())),
        "its adapter adds tokens of its own to each row": any(
            getattr(a, "is_prompt_learning", False) for a in adapters.values()
        ),
        "it has an encoder": any(getattr(c, "is_encoder_decoder", False) for c in configs),
        "it has recurrent or convolutional layers, which carry a state from token to token": (
            getattr(base, "_is_stateful", False) or any(type(m) is nn.Conv1d for m in base.modules())
        ),
        f"it has layers of the kind {', '.join(sorted(kinds))}": bool(kinds),
        "it counts distances (ALiBi) by place in the row": any(getattr(c, "alibi", False) for c in configs),
        "its rotary positions depend on the longest row of a forward pass": any(
            _rope_type(c) in _CHANGING_ROPE for c in configs
        ),
        "it computes attention in an order of its own": any(
            getattr(c, "reorder_and_upcast_attn", False) for c in configs
        ),
        "its attention is not one that can be replaced": not getattr(
            base, "_supports_attention_backend", False
        ),
        "FlashAttention shares no prompts; set packed, or load the model with attention sdpa": (
            is_flash(model) and isinstance(layout, PrefixShared)
        ),
        f"its attention is {attention_name(base)}": not (is_known(model) or is_flash(model)),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _configs(base: Any) -> Iterator[Any]:
    seen: set[int] = set()
    for module in base.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation") and id(config) not in seen:
            seen.add(id(config))
            yield config


def _rope_type(config: Any) -> str:
    stated = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    return str(stated.get("rope_type", stated.get("type"))) if isinstance(stated, dict) else ""


def _trial(
    model: nn.Module, layout: Layout, autocast_dtype: torch.dtype | None, *, in_one_call: bool
) -> str | None:
    """What a trial shows against it."""
    if isinstance(layout, PrefixShared):
        layout = PrefixShared(least=1)
    inner: Any = unwrap(model)
    rows = trial_rows(inner)
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), autocast(device, autocast_dtype):
        alone = torch.cat([score_rows(model, [row]) for row in rows])
        with noting_slow_attention() as slow:
            together = score_rows(model, rows, layout)
        replaced = score_rows(model, [*map(_other, rows[:-1]), rows[-1]], layout)
    dtype = compute_dtype(model, autocast_dtype)
    allowed = NOISE_ALLOWED * score_noise(dtype, [row.scored_length for row in rows])
    off = _distance(together, alone)
    # Mixtures of experts sort tokens of all rows, so that rounding moves with them.
    experts = any(
        hasattr(c, a)
        for c in _configs(inner)
        for a in ("num_experts", "num_local_experts", "n_routed_experts")
    )
    moved = _distance(replaced, together)[-1]
    if not np.all(off <= allowed):
        return f"a row scores {off.max():.2g} nats otherwise than by itself"
    if not moved <= (allowed[-1] if experts else min(_LEAK, allowed[-1])):
        return f"a row's score moves by {moved:.2g} nats when the other rows are replaced"
    if in_one_call and slow:
        return f"its attention would take rows one by one ({slow[0]})"
    return None


def _distance(a: torch.Tensor, b: torch.Tensor) -> NDArray[np.float64]:
    return (a - b).abs().double().cpu().numpy()


def _trial_length(base: Any) -> int:
    """Tokens of the longest row: more than a window holds, where it is small enough."""
    windows = [getattr(c, name, None) for c in _configs(base) for name in _WINDOWS]
    small = [w for w in windows if isinstance(w, int) and w <= _LONGEST_TRIAL]
    positions = [getattr(c, "max_position_embeddings", None) or _LONGEST_TRIAL for c in _configs(base)]
    return max(4, min(max([_SHORT_TRIAL, *(w + 8 for w in small)]), *positions))


def _vocabulary(base: Any) -> int:
    """Token ids that a model knows; its embedding does not say where weights are shared out over ranks."""
    stated = [getattr(c, "vocab_size", None) for c in _configs(base)]
    known = [size for size in stated if isinstance(size, int)]
    return min(known) if known else int(base.get_input_embeddings().weight.shape[0])


def trial_rows(model: nn.Module) -> list[TokenRow]:
    """Three rows, the last two with one prompt, the longest last; their tokens are the same on every machine.

    Args:
        model: without wrappers; the longest row is longer than its sliding window, if that is small.
    """
    vocabulary, longest = _vocabulary(model), _trial_length(model)
    random = np.random.default_rng(0)

    def tokens(n: int) -> list[int]:
        return random.integers(0, vocabulary, n).tolist()

    prompt = tokens(max(1, longest // 3))
    answers = [tokens(max(1, longest // 4)), tokens(longest - len(prompt))]
    first = tokens(longest // 2)
    rows = [(first, max(1, len(first) // 2)), *((prompt + answer, len(prompt)) for answer in answers)]
    return [TokenRow(ids, prompt_length, True, k, k) for k, (ids, prompt_length) in enumerate(rows)]


def _other(row: TokenRow) -> TokenRow:
    """A row with the same prompt and another answer of the same length."""
    prompt, answer = row.input_ids[: row.prompt_length], row.input_ids[row.prompt_length :]
    return replace(row, input_ids=[*prompt, *((token + 1) % 2 for token in answer)])
