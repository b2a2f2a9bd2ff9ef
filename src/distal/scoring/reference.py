"""Reference models: which frozen policy the rewards are measured against, and its scores.

A reference is one of

- a model of its own (`FrozenModel`),
- the base of a PEFT model whose adapter starts at zero: adapters off (`AdapterOff`),
- the adapter a PEFT model came with, copied and frozen (`AdapterSnapshot`),
- the policy itself as it was before the first step (`InitialPolicy`): its scores must be taken before training.

The last three need no second model in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from distal.caching import ScoreCache, default_cache_dir
from distal.errors import ModelError
from distal.scoring.attention import attention_name
from distal.scoring.cached import CachedScores, score_through_cache
from distal.scoring.dataset import DEFAULT_TOKENS_PER_BATCH, Passes
from distal.scoring.fingerprint import weights_fingerprint
from distal.scoring.layouts import PADDED, Layout
from distal.types import RowSource

__all__ = [
    "AdapterOff",
    "AdapterSnapshot",
    "FrozenModel",
    "InitialPolicy",
    "Reference",
    "cached_scores",
    "choose_reference",
    "reference_scores",
]


class Reference(Protocol):
    """A frozen policy that can be asked for scores."""

    description: str
    derived_from_policy: bool
    """Whether it must equal the policy before the first step."""

    def fingerprint(self) -> str:
        """Identity of its weights, which never change: taken once, and kept when they are moved or sharded."""
        ...

    def active(self) -> Any:
        """Context manager: the model that computes its scores while open."""
        ...


class FrozenModel:
    """A separate model, given by the user."""

    description = "a separate reference model"
    derived_from_policy = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model.requires_grad_(False)

    @cached_property
    def _fingerprint(self) -> str:
        return weights_fingerprint(self.model)

    def fingerprint(self) -> str:
        """Identity of the weights that score."""
        return self._fingerprint

    @contextmanager
    def active(self) -> Generator[nn.Module]:
        """The model that computes the reference's scores, while open."""
        yield self.model


class AdapterOff:
    """The base model under a PEFT model whose adapters are new."""

    description = "the base model, adapters off"
    derived_from_policy = True

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    @cached_property
    def _fingerprint(self) -> str:
        return weights_fingerprint(self.policy, with_adapters=False)

    def fingerprint(self) -> str:
        """Identity of the weights that score."""
        return self._fingerprint

    @contextmanager
    def active(self) -> Generator[nn.Module]:
        """The model that computes the reference's scores, while open."""
        with self.policy.disable_adapter():
            yield self.policy


class AdapterSnapshot:
    """The adapter that a PEFT model came with: its trainable weights copied, and swapped in to score."""

    description = "the adapter that the model came with, copied and frozen"
    derived_from_policy = True

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy
        self.frozen: dict[str, torch.Tensor] = {}
        self.take()

    def take(self) -> None:
        """Copy the adapter as it is now; once more after the weights were moved or sharded, not changed."""
        self.frozen = {
            name: p.detach().clone() for name, p in self.policy.named_parameters() if p.requires_grad
        }

    @cached_property
    def _fingerprint(self) -> str:
        with self.active() as model:
            return weights_fingerprint(model)

    def fingerprint(self) -> str:
        """Identity of the weights that score."""
        return self._fingerprint

    @contextmanager
    def active(self) -> Generator[nn.Module]:
        """The model that computes the reference's scores, while open."""
        live = {name: p for name, p in self.policy.named_parameters() if name in self.frozen}
        kept = {name: p.detach().clone() for name, p in live.items()}
        self._copy(self.frozen, live)
        try:
            yield self.policy
        finally:
            self._copy(kept, live)

    @staticmethod
    @torch.no_grad()
    def _copy(source: dict[str, torch.Tensor], target: dict[str, nn.Parameter]) -> None:
        for name, parameter in target.items():
            parameter.copy_(source[name])


class InitialPolicy:
    """The policy as it is before the first step; gone afterwards."""

    description = "the policy before training"
    derived_from_policy = True

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy
        self.moved = False

    @cached_property
    def _fingerprint(self) -> str:
        return weights_fingerprint(self.policy)

    def fingerprint(self) -> str:
        """Identity of the weights that score."""
        self._refuse_if_moved()
        return self._fingerprint

    @contextmanager
    def active(self) -> Generator[nn.Module]:
        """The model that computes the reference's scores, while open."""
        self._refuse_if_moved()
        yield self.policy

    def _refuse_if_moved(self) -> None:
        if self.moved:
            raise ModelError(
                "the reference is the policy before training, and training has moved it: no new data set can be "
                "scored against it. Give evaluation sets to the trainer before train(), or pass ref_model."
            )


def choose_reference(policy: nn.Module, ref_model: nn.Module | None, *, new_adapter: bool) -> Reference:
    """The reference that goes with a policy.

    Args:
        policy: the model to be trained.
        ref_model: the user's choice, or None for the policy's own start.
        new_adapter: whether the policy's adapter was created just now (so that adapters off is its start).
    """
    if ref_model is not None:
        if ref_model is policy:
            raise ModelError(
                "ref_model is the very model being trained; leave it out to use the policy's start"
            )
        return FrozenModel(ref_model)
    if not hasattr(policy, "disable_adapter"):
        return InitialPolicy(policy)
    return AdapterOff(policy) if new_adapter else AdapterSnapshot(policy)


def reference_scores(  # noqa: PLR0913 - most of them say how to compute, and have defaults
    reference: Reference | nn.Module,
    dataset: RowSource,
    *,
    cache_dir: str | Path | None = None,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    layout: Layout = PADDED,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = "scoring the reference",
    warn: Callable[[str], None] = lambda message: None,
    shared: bool = False,
) -> np.ndarray:
    """Scores of a data set under the reference, from the cache on disk where they are already known.

    Args:
        reference: a `Reference`, or a model.
        dataset: tokenised preferences with a `fingerprint`.
        cache_dir: folder of the score cache; None for `default_cache_dir()`.
        tokens_per_batch: token places per forward pass; memory and speed only, not part of the key.
        layout: how rows are laid out in it; the policy's, so that rewards before the first step are zero.
        autocast_dtype: mixed precision; the same as the policy's, or step-0 rewards will not be zero.
        progress: what the progress bar says; None for silence.
        warn: called with a message when a damaged shard is thrown away and recomputed.
        shared: share the forward passes out over the ranks, all of which must call this. The first one reads and
            writes the cache, and what it has holds for all.

    Returns:
        (n_rows,) nats, unit by unit.
    """
    how = Passes(
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        autocast_dtype=autocast_dtype,
        progress=progress,
        shared=shared,
    )
    return cached_scores(reference, dataset, how, cache_dir=cache_dir, warn=warn).scores


def cached_scores(
    reference: Reference | nn.Module,
    dataset: RowSource,
    how: Passes,
    *,
    cache_dir: str | Path | None = None,
    about: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> CachedScores:
    """`reference_scores`, and where they are from: of any model, and for any purpose.

    Args:
        reference: a `Reference`, or a model.
        dataset: tokenised preferences with a `fingerprint`.
        how: how rows are put through the model where their scores are not known.
        cache_dir: folder of the score cache; None for `default_cache_dir()`.
        about: what people want to know who look at the entry of the cache.
        warn: called with a message when a damaged shard is thrown away and recomputed.
    """
    if isinstance(reference, nn.Module):
        reference = FrozenModel(reference)
    cache = ScoreCache(cache_dir if cache_dir is not None else default_cache_dir())
    told = {"model": reference.description, **(about or {})}
    with reference.active() as model:
        identity = {
            "weights": reference.fingerprint(),
            "rows": cast(Any, dataset).fingerprint,
            "autocast": str(how.autocast_dtype),
            "device": next(model.parameters()).device.type,
            "attention": attention_name(model),
            "layout": how.layout.name,
        }
        return score_through_cache(model, dataset, how, cache=cache, identity=identity, about=told, warn=warn)
