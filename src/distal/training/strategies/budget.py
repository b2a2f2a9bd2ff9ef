"""How many bytes a strategy may keep between its two halves, and how many it would like to."""

from __future__ import annotations

import torch.distributed as dist

from distal.training.memory import free_bytes, graph_bytes
from distal.training.strategies.base import Step
from distal.training.strategies.randomness import RngState

__all__ = ["Budget", "bytes_of_all_graphs"]

# A device's memory is there to be used; the host's is shared with everything else that runs there.
_SHARE = {"cuda": 0.8}
_SHARE_OF_HOST = 0.5


class Budget:
    """Bytes for retained graphs or unit gradients: a number that the user set, or what is free when first asked.

    Args:
        limit: bytes; None to measure.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.measured: int | None = None

    def bytes(self, step: Step) -> int:
        """The number, the same in every step and on every rank.

        Measured, it is a share of the free memory, less what the first optimizer step is about to allocate: a
        gradient and two float32 moments of every trained parameter.
        """
        if self.limit is not None:
            return self.limit
        if self.measured is None:
            free = int(_SHARE.get(step.device.type, _SHARE_OF_HOST) * free_bytes(step.device))
            coming = sum(p.numel() * (p.element_size() + 8) for p in step.trained_parameters())
            self.measured = step.over_ranks(max(0, free - coming), dist.ReduceOp.MIN)
        return self.measured


def bytes_of_all_graphs(step: Step) -> int:
    """Measured on the largest micro-batch of this rank, in a pass that leaves no trace."""
    group = step.groups[0]
    state = RngState.take(step.device)
    with step.unsynchronised():
        _, size = graph_bytes(step.model, lambda: step.score(group))
    state.put_back()
    total = sum(step.places(g) for g in step.groups)
    return round(size * total / max(1, step.places(group)))
