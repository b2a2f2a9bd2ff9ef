"""How many bytes a strategy may keep between its two halves, and how many it would like to."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch.distributed as dist

from distal.training.memory import free_bytes, graph_bytes
from distal.training.strategies.base import Step
from distal.training.strategies.choice import Choice
from distal.training.strategies.randomness import RngState

__all__ = ["Budget", "GraphSizes", "graph_sizes", "mib"]

logger = logging.getLogger(__name__)

# A device's memory is there to be used; the host's is shared with everything else that runs there.
_SHARE = {"cuda": 0.8}
_SHARE_OF_HOST = 0.5


class Budget:
    """Bytes for retained graphs or unit gradients: a number that the user set, or what is free when first asked.

    Args:
        limit: bytes; None to measure.
        earlier: what the run had settled on when its checkpoint was made; it counts where it still fits.

    Attributes:
        earlier: the same, None once it has been found not to fit.
        settled: the number, None before anybody asked.
    """

    def __init__(self, limit: int | None = None, earlier: Choice | None = None) -> None:
        self.limit, self.earlier = limit, earlier
        # A run that goes on from a checkpoint has loaded the optimizer's moments already.
        self._moments_coming = earlier is None
        self.settled: int | None = None

    def bytes(self, step: Step) -> int:
        """The number, the same in every step and on every rank."""
        if self.settled is None:
            allowed = self._measure(step) if self.limit is None else self.limit
            if self.earlier is not None and self.earlier.kept > allowed:
                logger.warning(
                    "Strategy %s of the checkpoint keeps %s, of %s that may be used now. How gradients are computed is "
                    "decided anew, so the last bits of what follows may differ from those of an uninterrupted run.",
                    self.earlier.strategy,
                    mib(self.earlier.kept),
                    mib(allowed),
                )
                self.earlier = None
            # With less than it had been given, but no less than it used, the earlier split of a batch still holds.
            self.settled = allowed if self.earlier is None else min(self.earlier.budget, allowed)
        return self.settled

    def _measure(self, step: Step) -> int:
        """A share of the free memory, less what the first optimizer step is about to allocate.

        That is a gradient and two float32 moments of every trained parameter.
        """
        free = int(_SHARE.get(step.device.type, _SHARE_OF_HOST) * free_bytes(step.device))
        moments = 8 if self._moments_coming else 0
        coming = sum(p.numel() * (p.element_size() + moments) for p in step.trained_parameters())
        return step.over_ranks(max(0, free - coming), dist.ReduceOp.MIN)


class GraphSizes(NamedTuple):
    """Bytes that graphs of one optimizer batch take on this rank: the largest micro-batch's, and all together."""

    largest: int
    all: int


def graph_sizes(step: Step) -> GraphSizes:
    """Measured on the micro-batch with the longest rows, in a pass that leaves no trace."""
    group = step.groups[0]
    state = RngState.take(step.device)
    with step.unsynchronised():
        _, size = graph_bytes(step.model, lambda: step.score(group))
    state.put_back()
    places = [step.places(g) for g in step.groups]
    per_place = size / max(1, step.places(group))
    return GraphSizes(largest=round(per_place * max(places)), all=round(per_place * sum(places)))


def mib(size: int) -> str:
    """Bytes for messages.

    Examples:
        >>> mib(3 * 2**20)
        '3 MiB'
    """
    return f"{size / 2**20:,.0f} MiB"
