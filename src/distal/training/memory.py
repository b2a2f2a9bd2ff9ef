"""How much memory a device has left, as far as this process can have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

__all__ = ["GIB", "free_bytes", "graph_bytes"]

GIB = 2**30

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# (limit, usage, key of reclaimable pages in memory.stat) in versions 2 and 1 of the interface.
_FILES = {
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes(device: torch.device | str) -> int:
    """Bytes that this process can still allocate on a device.

    - CUDA: what the driver reports as free, and what PyTorch's allocator holds without using it.
    - CPU: what the operating system reports as available, or what the process's control group (a container's
      limit) leaves, whichever is less. Cached file pages count as free: the system gives them back on demand.
    - MPS: the recommended limit less what the driver holds.

    Args:
        device: `cuda` without an index is the current device.

    Raises:
        ValueError: a type of device whose memory cannot be asked for.

    Examples:
        >>> free_bytes("cpu") > 0
        True
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type == "cpu":
        return max(0, min([int(psutil.virtual_memory().available), *_left_in_cgroups()]))
    raise ValueError(f"the free memory of a device of type {device.type!r} is not known")


def graph_bytes(model: nn.Module, compute: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Run a forward pass, and count the bytes that its graph keeps until the backward pass.

    Counted are the storages of tensors saved for the backward pass, each once, without the model's own weights;
    inputs saved by activation checkpointing are among them. On CUDA it is at least what the allocator handed out.

    Args:
        model: whose weights do not count.
        compute: the forward pass.

    Returns:
        What `compute` returned, and bytes.

    Examples:
        >>> x = torch.ones(10, requires_grad=True)
        >>> graph_bytes(nn.Identity(), lambda: (x.exp() * 2).sum())[1]
        40
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next((t.device for t in model.parameters() if t.is_cuda), None)
    before = torch.cuda.memory_allocated(device) if device else 0
    with torch.autograd.graph.saved_tensors_hooks(count, _unchanged):
        result = compute()
    allocated = torch.cuda.memory_allocated(device) - before if device else 0
    return result, max(sum(saved.values()), allocated)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _left_in_cgroups(membership: Path = _MEMBERSHIP, root: Path = _CGROUPS) -> Iterator[int]:
    """What each limit above this process leaves; nothing where there are no control groups."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if controllers == "":
            base, files = root, _FILES["v2"]
        elif "memory" in controllers.split(","):
            base, files = root / "memory", _FILES["v1"]
        else:
            continue
        # A limit binds everything below it. Inside a container the path may name a folder that only the host sees;
        # the container's own limit then stands at the root.
        group = Path(path)
        for folder in (group, *group.parents):
            left = _left(base / folder.relative_to(folder.anchor), *files)
            if left is not None:
                yield left


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Limit less usage that cannot be reclaimed, or None without a limit."""
    try:
        bound = (folder / limit).read_text().strip()
        if bound == "max":
            return None
        used = int((folder / usage).read_text())
        stat = (folder / "memory.stat").read_text()
    except OSError:
        return None
    cached = sum(int(value) for key, value in map(str.split, stat.splitlines()) if key == reclaimable)
    return int(bound) - max(0, used - cached)
