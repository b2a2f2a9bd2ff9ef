"""What a model does between its output matrix and its logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["IDENTITY", "LogitTransform", "stated_transforms"]

# Names under which configurations of transformers hold a factor of the logits, and those they are divided by.
# `logits_scaling` divides in Granite and multiplies elsewhere, so it is tried both ways.
_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
_DIVISORS = ("logits_scaling",)


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """`logits = cap * tanh(scale * z / cap)`, or `scale * z` without a cap, where z = h W^T + b.

    Attributes:
        scale: a factor (Cohere, Granite).
        cap: bound on the size of a logit (Gemma 2), None for none.

    Examples:
        >>> LogitTransform(scale=0.5)(torch.tensor([4.0])).item()
        2.0
        >>> round(LogitTransform(cap=2.0)(torch.tensor([100.0])).item(), 4)
        2.0
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Logits from products, of any shape; differentiable."""
        if self.cap is not None:
            return torch.tanh(z * (self.scale / self.cap)) * self.cap
        return z if self.scale == 1.0 else z * self.scale

    def with_slope(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and their derivative by z as a multiple of `scale`: None where that is 1. Overwrites z."""
        if self.cap is None:
            return z if self.scale == 1.0 else z.mul_(self.scale), None
        bounded = z.mul_(self.scale / self.cap).tanh_()
        return bounded * self.cap, bounded.square_().neg_().add_(1)


IDENTITY = LogitTransform()


def stated_transforms(model: nn.Module) -> Iterator[LogitTransform]:
    """The transforms that a model's configuration may mean, the likeliest first, the identity last."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    cap = _number(config, "final_logit_softcapping")
    scales = [value for name in _FACTORS if (value := _number(config, name)) is not None]
    scales += [1 / value for name in _DIVISORS if (value := _number(config, name))]
    for bound in dict.fromkeys((cap, None)):
        for scale in dict.fromkeys((*scales, 1.0)):
            yield LogitTransform(scale, bound)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
