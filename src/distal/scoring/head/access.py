"""Whether a model's head may be computed here, and how the states before it are had.

The model's own forward pass runs as its authors wrote it; a hook takes the states on their way into the head and
hands the head none of them. What the model does to its logits afterwards is then lost, so it must be known: a
hypothesis from the configuration counts only once it has reproduced the model's own logits, over a range of sizes
that brings out caps and scales. Everything that is not a plain matrix, or that does not pass this examination, keeps
the model's own head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distal.errors import ModelError
from distal.scoring.attention import unwrap
from distal.scoring.head.transform import LogitTransform, stated_transforms

__all__ = ["HeadInput", "head_of", "plain_head", "states_before_head"]

logger = logging.getLogger(__name__)

_PROBES = 8
"""Tokens of the pass in which a model's logits are examined."""
_PROBE_SIZE = 60.0
"""Largest logit, in nats, among the enlarged probes: beyond the caps in use (Gemma 2 and 3: 30)."""
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest error of one logit, relative to the largest, by which two computations of it may differ."""
_BIAS_OF_SCALE = {torch.float64: 1e-9, torch.float32: 1e-5}
_BIAS_OF_SCALE_NARROW = 2e-3
"""Largest relative difference of two scales; rounding averages out in it."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps its hooks."""


@dataclass
class HeadInput:
    """What came to the head in one forward pass.

    Attributes:
        states: (N, H) states at the chosen positions, with their graph.
        compute_dtype: type that the head would have multiplied in (that of mixed precision, or its own).
        calls: how often the head was called.
    """

    states: Tensor | None = None
    compute_dtype: torch.dtype | None = None
    calls: int = 0

    def only(self) -> tuple[Tensor, torch.dtype]:
        """States and type, where the head was called once.

        Raises:
            ModelError: it was called otherwise, so it is not known which states the logits come from.
        """
        if self.calls != 1 or self.states is None or self.compute_dtype is None:
            raise ModelError(
                f"the language-model head was called {self.calls} times in one forward pass; such architectures "
                "cannot be scored yet"
            )
        return self.states, self.compute_dtype


@dataclass
class _Verdict:
    """What the examination of a model found; None for the transform: its own head must do."""

    head: nn.Module
    transforms: dict[torch.dtype, LogitTransform | None] = field(
        default_factory=dict[torch.dtype, LogitTransform | None]
    )


_verdicts: WeakKeyDictionary[nn.Module, _Verdict] = WeakKeyDictionary()


def head_of(model: nn.Module) -> nn.Module:
    """The language-model head.

    Raises:
        ModelError: there is none, or its vocabulary is shared out over tensor-parallel ranks.
    """
    inner: Any = unwrap(model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None:
        raise ModelError(
            f"{type(inner).__name__} has no output embeddings (language-model head); "
            "give a causal language model, as AutoModelForCausalLM loads it"
        )
    ranks = getattr(inner, "tp_size", None)
    if isinstance(ranks, int) and ranks > 1:
        raise ModelError(
            f"{type(inner).__name__} is shared out over {ranks} tensor-parallel ranks, its vocabulary among the rest; "
            "scores of such models are not supported. Load it without tp_plan, and use FSDP to share out weights."
        )
    return head


def plain_head(model: nn.Module, head: nn.Module, probe: Tensor) -> LogitTransform | None:
    """What the model does to its logits, or None where only its own head is sure to give them.

    The model is examined at the first call, in a pass of a few tokens without dropout.

    Args:
        model: possibly wrapped.
        head: from `head_of`.
        probe: (T,) token ids, T >= 1, on the model's device.
    """
    why = _unusual_wrapper(model) or _unusual_head(head)
    inner = unwrap(model)
    verdict = _verdicts.get(inner)
    if verdict is None or verdict.head is not head:
        verdict = _verdicts[inner] = _Verdict(head)
        if why:
            logger.info("%s keeps its own head: %s", type(inner).__name__, why)
    if why:
        return None
    dtype = _multiplied_in(head)
    if dtype not in verdict.transforms:
        verdict.transforms[dtype] = _examine(inner, head, probe[:_PROBES])
    return verdict.transforms[dtype]


@contextmanager
def states_before_head(head: nn.Module, select: Callable[[Tensor], Tensor]) -> Generator[HeadInput]:
    """While open, the head gets no states at all; those that `select` takes from its input are in the result."""
    held = HeadInput()

    def take(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        held.states = select(args[0])
        held.compute_dtype = _multiplied_in(head)
        held.calls += 1
        return (held.states[:0], *args[1:])

    handle = head.register_forward_pre_hook(take)
    try:
        yield held
    finally:
        handle.remove()


def _multiplied_in(head: nn.Module) -> torch.dtype:
    weight = cast(Tensor, head.weight)
    kind = weight.device.type
    if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def _unusual_wrapper(model: nn.Module) -> str:
    """Why the passes of a model are more than a computation on whole weights; empty if they are not."""
    while True:
        if any(kind.__name__ == "FSDPModule" for kind in type(model).__mro__):
            return "its weights are shared out over ranks (FSDP)"
        if getattr(model, "_compiled_call_impl", None) is not None:
            return "it is compiled"
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return ""
        if type(model) is not DistributedDataParallel:
            return f"it is wrapped in {type(model).__name__}"
        model = inner


def _unusual_head(head: nn.Module) -> str:
    """Why a head is more than one matrix; empty if it is not."""
    if type(head) is not nn.Linear:
        return f"it is a {type(head).__name__}"
    weight = head.weight
    if type(weight) is not nn.Parameter or hasattr(weight, "ds_id") or weight.is_meta:
        return "its weights are not ordinary parameters"
    if any(vars(head).get(name) for name in _HOOKS) or "forward" in vars(head):
        return "it has hooks"
    return ""


def _examine(model: nn.Module, head: nn.Module, ids: Tensor) -> LogitTransform | None:
    """The first of the transforms that the configuration may mean by which the model's logits are reproduced.

    Gradients are on or off as they are for the pass that follows: a user's hooks may count on it.
    """
    matrix = cast(nn.Linear, head)
    hypotheses = list(stated_transforms(model))
    size = max([_PROBE_SIZE, *(3 * known.cap for known in hypotheses if known.cap)])
    probes: list[Tensor] = []

    @torch.no_grad()
    def put_in(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states = args[0].reshape(-1, args[0].shape[-1])
        largest = F.linear(states, matrix.weight, matrix.bias).abs().max().clamp(min=1e-6)
        # States as they are, and enlarged: small logits do not show a cap.
        probes.append(torch.cat([states, states * (size / largest).to(states.dtype)]))
        return (probes[-1], *args[1:])

    handle = head.register_forward_pre_hook(put_in)
    try:
        with _evaluating(model):
            output = model(input_ids=ids[None], attention_mask=None, use_cache=False)
        found = cast(Tensor, output.logits).detach()
    finally:
        handle.remove()
    if len(probes) == 1:
        products = F.linear(probes[0], matrix.weight, matrix.bias).detach()
        dtype = products.dtype
        products, found = _wide(products), _wide(found)
        for known in hypotheses:
            if found.shape == products.shape and _agree(known(products), found, dtype):
                return known
    logger.warning(
        "the logits of %s are not those of its output matrix, nor of a scale or cap that its configuration names: "
        "scores are computed through the model's own head, which takes more memory",
        type(model).__name__,
    )
    return None


def _agree(expected: Tensor, found: Tensor, dtype: torch.dtype) -> bool:
    """Whether two computations of logits differ by rounding in `dtype` only."""
    largest = expected.abs().max()
    error = (expected - found).abs().max()
    scale = (expected * found).sum() / expected.square().sum()
    off = _BIAS_OF_SCALE.get(dtype, _BIAS_OF_SCALE_NARROW)
    return bool((largest > 0) & (error <= _ROUNDING[dtype] * largest) & ((scale - 1).abs() <= off))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode, and afterwards every module as it was: not all are in the mode of the whole."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
