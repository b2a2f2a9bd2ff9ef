"""Decoder blocks through `torch.compile`, one by one: the same scores from fewer passes over memory.

Every block of a model runs the same code, so that one compiled graph serves all of them, and it is made for sizes that
vary: micro-batches of a token budget have many lengths. What is compiled is a block's own forward function, inside the
wrapper that checkpoints activations, so that the second run of a checkpointed block takes the same path. Names of
weights stay as they are. Attention over segments, whose shapes are others in each pass, stays out of the graphs, and
so do the head and everything between blocks.

Compiled blocks must first show that they can be made and score as the others do; otherwise they are put back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from distal.errors import ConfigError
from distal.scoring.attention import register_attention, unwrap
from distal.scoring.choosing import NOISE_ALLOWED, trial_rows
from distal.scoring.dataset import autocast, evaluating
from distal.scoring.layouts import Layout
from distal.scoring.logprobs import score_rows
from distal.scoring.precision import compute_dtype, score_noise

__all__ = [
    "DEFAULT_BACKEND",
    "blocks_of",
    "check_backend",
    "compile_blocks",
    "has_compiled_blocks",
    "uncompiled",
]

logger = logging.getLogger(__name__)

Backend = str | Callable[..., Any]
DEFAULT_BACKEND = "inductor"
_GRAPHS = 64
"""Graphs of one function: with and without gradient, mask, adapter and one row, in training and in evaluation."""


def compile_blocks(
    models: Iterable[nn.Module],
    layout: Layout,
    *,
    backend: Backend = DEFAULT_BACKEND,
    autocast_dtype: torch.dtype | None = None,
) -> bool:
    """Compile the decoder blocks of all models, or of none where one of them cannot be; then one warning says why.

    Args:
        models: policy and reference, on their devices and before they are wrapped for data parallelism.
        layout: how rows will be laid out.
        backend: name that `torch.compile` knows, or a function as it takes them.
        autocast_dtype: mixed precision, as in scoring.

    Returns:
        Whether they are compiled.
    """
    done: list[nn.Module] = []
    for model in models:
        try:
            reason = _compile(model, layout, backend, autocast_dtype)
        except Exception as error:  # whatever it is, the model runs without
            logger.debug("compiling failed", exc_info=True)
            first = next(iter(str(error).strip().splitlines()), "")
            reason = f"compiling failed ({type(error).__name__}: {first[:200]})"
        done.append(model)
        if reason is not None:
            for touched in done:
                _restore(touched)
            logger.warning("blocks are not compiled, which costs speed and changes nothing else: %s", reason)
            return False
    return True


def check_backend(name: str) -> None:
    """Refuse a backend that `torch.compile` does not know.

    Raises:
        ConfigError: the message lists those that it knows.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if name not in known:
        raise ConfigError(f"compile_backend: {name!r} is unknown; torch.compile knows {', '.join(known)}")


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks of a model of transformers, in order; none where they cannot be told."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in unwrap(model).modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inside:
            found.append(module)
            inside.update(map(id, module.modules()))
    return found


def has_compiled_blocks(model: nn.Module) -> bool:
    """Whether `compile_blocks` has compiled a model."""
    return next(_compiled(model), None) is not None


@contextmanager
def uncompiled(model: nn.Module) -> Generator[None]:
    """While open, blocks run as they are: for generation, whose caches would ask for graph after graph."""
    held = [(block, vars(block).pop("forward")) for block in list(_compiled(model))]
    try:
        yield
    finally:
        for block, forward in held:
            vars(block)["forward"] = forward


def _compile(
    model: nn.Module, layout: Layout, backend: Backend, autocast_dtype: torch.dtype | None
) -> str | None:
    """Compile the blocks of one model and try them; what speaks against it, or None."""
    blocks = blocks_of(model)
    if not blocks:
        return f"{type(unwrap(model)).__name__} has no blocks that are known"
    if any("forward" in vars(block) for block in blocks):
        return "its blocks have a forward function of their own already"
    rows = trial_rows(unwrap(model))
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), autocast(device, autocast_dtype):
        expected = score_rows(model, rows, layout)
    _keep_attention_out()
    for block in blocks:
        vars(block)["forward"] = partial(_forward, block, _compiled_function(type(block), backend))
    with evaluating(model), autocast(device, autocast_dtype):
        with torch.no_grad():
            found = score_rows(model, rows, layout)
        _backpropagate(model, score_rows(model, rows, layout))
    off = (found - expected).abs().double().cpu().numpy()
    lengths = [row.scored_length for row in rows]
    allowed = NOISE_ALLOWED * score_noise(compute_dtype(model, autocast_dtype), lengths)
    return None if np.all(off <= allowed) else f"compiled, a row scores {off.max():.2g} nats otherwise"


def _backpropagate(model: nn.Module, scores: Tensor) -> None:
    """A backward pass that leaves no gradient behind."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained and scores.requires_grad:
        torch.autograd.grad(scores.sum(), trained, allow_unused=True)


def _forward(block: Any, compiled: Any, *args: Any, **kwargs: Any) -> Any:
    """What transformers' wrapper of a block does, around the compiled function."""
    if block.gradient_checkpointing and block.training:
        return block._gradient_checkpointing_func(partial(compiled, block, **kwargs), *args)
    return compiled(block, *args, **kwargs)


@cache
def _compiled_function(kind: type[nn.Module], backend: Backend) -> Any:
    """The forward function of a kind of block, compiled for any size."""
    import torch._dynamo as dynamo

    settings: Any = dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _GRAPHS)
    settings.optimize_ddp = False  # blocks are cut where gradients can be exchanged already
    own: Any = kind.forward
    return torch.compile(getattr(own, "__wrapped__", own), backend=backend, dynamic=True)


@cache
def _keep_attention_out() -> None:
    from transformers import AttentionInterface

    for name in register_attention():
        own = cast(Any, AttentionInterface()[name])
        AttentionInterface.register(name, torch.compiler.disable(own))


def _compiled(model: nn.Module) -> Iterator[nn.Module]:
    for module in unwrap(model).modules():
        if getattr(vars(module).get("forward"), "func", None) is _forward:
            yield module


def _restore(model: nn.Module) -> None:
    for block in list(_compiled(model)):
        del vars(block)["forward"]
