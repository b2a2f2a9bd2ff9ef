"""Several processes at one job: which of them this is, and how work without gradient is shared out among them.

Every rank works through the same number of forward passes. Where weights are sharded (FSDP2, ZeRO) a forward pass is
a collective operation, and ranks that ran different numbers of them would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

__all__ = [
    "collective_device",
    "from_first_rank",
    "in_parallel",
    "rank_and_world",
    "share_of",
    "sum_over_ranks",
]

T = TypeVar("T")


def in_parallel() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_and_world() -> tuple[int, int]:
    """Number of this rank, and of all ranks; (0, 1) for a process on its own."""
    return (dist.get_rank(), dist.get_world_size()) if in_parallel() else (0, 1)


def collective_device() -> torch.device:
    """Where tensors must lie for the default process group to exchange them."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or dist.get_backend() in ("gloo", "mpi"):
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())


def share_of(items: Sequence[T]) -> tuple[list[T], int]:
    """This rank's part of a job, and how many of its items count.

    Items that do not count are repetitions, after the others, that give every rank the same number of them.

    Examples:
        >>> share_of(["a", "b", "c"])  # one rank
        (['a', 'b', 'c'], 3)
    """
    rank, world = rank_and_world()
    own = list(items[rank::world])
    missing = -(-len(items) // world) - len(own)
    return own + [items[-1]] * missing, len(own)


def sum_over_ranks(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sum over ranks, of the same type and shape, equal on all of them."""
    if not in_parallel():
        return values
    total = torch.from_numpy(values).to(collective_device())
    dist.all_reduce(total)
    return total.cpu().numpy()


def from_first_rank(
    values: NDArray[np.floating] | None, like: NDArray[np.floating]
) -> NDArray[np.floating] | None:
    """What the first rank has, on every rank; None if that has nothing.

    Args:
        values: of the first rank; those of the others are ignored.
        like: an array of the shape and type that the values have.
    """
    if not in_parallel():
        return values
    device = collective_device()
    known = torch.tensor(int(values is not None), device=device)
    dist.broadcast(known, src=0)
    if not known.item():
        return None
    held = values if dist.get_rank() == 0 and values is not None else np.zeros_like(like)
    received = torch.from_numpy(np.ascontiguousarray(held.astype(like.dtype))).to(device)
    dist.broadcast(received, src=0)
    return received.cpu().numpy()


def word_from_first_rank(word: str) -> str:
    """What the first rank says, on every rank.

    Examples:
        >>> word_from_first_rank("checkpoint-10")  # one rank
        'checkpoint-10'
    """
    if not in_parallel():
        return word
    length = torch.tensor(len(word.encode()), device=collective_device())
    dist.broadcast(length, src=0)
    letters = torch.zeros(int(length.item()), dtype=torch.uint8, device=collective_device())
    if dist.get_rank() == 0:
        letters = torch.tensor(list(word.encode()), dtype=torch.uint8, device=collective_device())
    dist.broadcast(letters, src=0)
    return bytes(letters.tolist()).decode()
