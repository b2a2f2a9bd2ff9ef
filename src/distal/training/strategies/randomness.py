"""Random number generators of the host and of one device, to be put back for a second pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RngState"]


@dataclass(frozen=True, slots=True)
class RngState:
    """States of PyTorch's generators that a forward pass on `device` draws from."""

    host: Tensor
    device: torch.device
    on_device: Tensor | None

    @classmethod
    def take(cls, device: torch.device) -> RngState:
        """The states as they are now."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), device, on_device)

    def put_back(self) -> None:
        """Go on drawing from these states."""
        torch.set_rng_state(self.host)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)
