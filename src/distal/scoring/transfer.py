"""From the host to a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["integers_to", "sent_to"]


def integers_to(device: torch.device | str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Integer tensors of the host on a device, with their shapes and types, all of them in one copy.

    Args:
        device: where they should lie.
        tensors: of integers or booleans, at least one, on the host.

    Examples:
        >>> integers_to("cpu", [torch.tensor([[1, 2]]), torch.tensor([True])])
        [tensor([[1, 2]]), tensor([True])]
    """
    if torch.device(device).type == "cpu":
        return list(tensors)
    together = sent_to(device, torch.cat([x.flatten().long() for x in tensors]))
    parts = together.split([x.numel() for x in tensors])
    return [part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True)]


def sent_to(device: torch.device | str, tensor: Tensor) -> Tensor:
    """A tensor on a device; the host goes on before it has arrived, where the device allows that."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        # Only memory that the operating system leaves in its place can be read while the host goes on.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
