"""Checks of samples and weights, shared by every function of `distal.transport`.

They name the argument and say what was received, and they promote half precision to float32, so that no
formula below needs to think about either.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["as_statistic", "check_level", "check_pair", "check_positive", "check_sample", "check_weights"]

_HALF = (torch.float16, torch.bfloat16)


def check_sample(x: object, name: str) -> Tensor:
    """Return `x` in float32 or float64 after checking that it is a non-empty, finite, floating 1-D tensor.

    Args:
        x: sample, shape (n,).
        name: what to call it in messages.

    Returns:
        `x` itself, or its float32 copy when it was float16 or bfloat16 (gradients return in the input's
        type).

    Raises:
        TypeError: `x` is not a tensor, or not of a real floating type.
        ValueError: `x` is not 1-D, is empty, or holds NaN or infinity.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}; convert it with {name}.float()")
    if x.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty; a law needs at least one sample")
    if not bool(torch.isfinite(x.detach()).all()):
        bad = int((~torch.isfinite(x.detach())).sum())
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite among {x.numel()}")
    return x.float() if x.dtype in _HALF else x


def check_pair(u: Tensor, v: Tensor, u_name: str = "u", v_name: str = "v") -> tuple[Tensor, Tensor]:
    """Check two samples and bring them to their common precision.

    Raises:
        ValueError: as `check_sample`, or the samples are on different devices.
        TypeError: as `check_sample`.
    """
    devices = getattr(u, "device", None), getattr(v, "device", None)
    if None not in devices and devices[0] != devices[1]:
        raise ValueError(
            f"{u_name} is on {devices[0]} and {v_name} is on {devices[1]}; move them to one device"
        )
    u, v = check_sample(u, u_name), check_sample(v, v_name)
    dtype = torch.promote_types(u.dtype, v.dtype)
    return u.to(dtype), v.to(dtype)


def check_weights(weights: object, sample: Tensor, name: str) -> Tensor:
    """Return `weights` in float64, summing to 1.

    Args:
        weights: non-negative weights, shape (n,), not all zero; any positive sum.
        sample: the sample they belong to, shape (n,).
        name: what to call them in messages.

    Raises:
        TypeError: not a tensor of real numbers.
        ValueError: wrong shape or device, negative, not finite, all zero, or asking for a gradient.
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(weights).__name__}")
    if weights.dtype.is_complex or weights.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {weights.dtype}")
    if weights.shape != sample.shape:
        raise ValueError(
            f"{name} must have one weight per sample, shape {tuple(sample.shape)}, got {tuple(weights.shape)}"
        )
    if weights.device != sample.device:
        raise ValueError(
            f"{name} is on {weights.device} and its sample is on {sample.device}; move them to one device"
        )
    if weights.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, but the cost is differentiated in the samples only; detach it"
        )
    weights = weights.double()
    total = float(weights.sum())
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError(f"{name} must be finite and non-negative, got a minimum of {float(weights.min())}")
    if not 0.0 < total < math.inf:
        raise ValueError(f"{name} must have a positive, finite sum, got {total}")
    return weights / total


def check_positive(value: object, name: str, *, meaning: str) -> float:
    """Return `value` as a float after checking that it is finite and positive.

    Raises:
        TypeError: not a real number.
        ValueError: not positive, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be positive and finite ({meaning}), got {value}")
    return float(value)


def check_level(value: float, name: str) -> float:
    """Return `value` after checking that it lies strictly between 0 and 1.

    Raises:
        ValueError: it does not.
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return float(value)


def as_statistic(x: object, name: str) -> Tensor:
    """Return a sample as a detached float64 tensor, from a tensor, an array or a list of numbers.

    The statistics of dominance are reported, never differentiated, so they take arrays as well and work in
    double precision.

    Raises:
        TypeError: not convertible to numbers.
        ValueError: as `check_sample`.
    """
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a 1-D tensor, array or list of numbers, got {type(x).__name__}"
        ) from error
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    return check_sample(tensor.detach().double(), name)
