"""Checks of samples, weights and numbers, shared by every function of `distal.transport`.

They name the argument and say what was received, and they promote half precision to float32, so that no
formula below needs to think about either.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "as_statistic",
    "as_statistics",
    "check_flag",
    "check_level",
    "check_levels",
    "check_number",
    "check_pair",
    "check_positive",
    "check_sample",
    "check_weights",
    "check_whole",
    "scale_weights",
]


def check_sample(x: object, name: str) -> Tensor:
    """Return `x` in float32 or float64 after checking that it is a non-empty, finite, floating 1-D tensor.

    Args:
        x: sample, shape (n,).
        name: what to call it in messages.

    Returns:
        `x` itself, or its float32 copy when it was in half precision or less (gradients return in the input's
        type).

    Raises:
        TypeError: `x` is not a dense tensor, or not of a real floating type.
        ValueError: `x` is not 1-D, is empty, holds NaN or infinity, or is on the meta device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {x.layout}; convert it with {name}.to_dense()")
    if not x.is_floating_point():
        raise TypeError(f"{name} must have a floating dtype, got {x.dtype}; convert it with {name}.float()")
    if x.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{name} is empty; a law needs at least one sample")
    if x.is_meta:
        raise ValueError(f"{name} is on the meta device, which holds no values")
    x = x if x.dtype.itemsize >= 4 else x.float()
    if not _all_finite(x):
        bad = int((~torch.isfinite(x.detach())).sum())
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite among {x.numel()}")
    return x


def _all_finite(x: Tensor) -> bool:
    """Whether every value is finite: on a GPU the one number that comes back to the host."""
    return bool(torch.isfinite(x.detach()).all())


def check_pair(u: object, v: object, u_name: str = "u", v_name: str = "v") -> tuple[Tensor, Tensor]:
    """Check two samples and bring them to their common precision.

    Raises:
        ValueError: as `check_sample`, or the samples are on different devices.
        TypeError: as `check_sample`.
    """
    if isinstance(u, Tensor) and isinstance(v, Tensor) and u.device != v.device:
        raise ValueError(f"{u_name} is on {u.device} and {v_name} is on {v.device}; move them to one device")
    one, two = check_sample(u, u_name), check_sample(v, v_name)
    dtype = torch.promote_types(one.dtype, two.dtype)
    return one.to(dtype), two.to(dtype)


def check_weights(weights: object, sample: Tensor, name: str) -> Tensor:
    """Return `weights` in float64, summing to 1.

    Args:
        weights: non-negative weights, shape (n,), not all zero; any positive sum.
        sample: the sample they belong to, shape (n,).
        name: what to call them in messages.

    Raises:
        TypeError: as `scale_weights`.
        ValueError: as `scale_weights`.
    """
    weights = scale_weights(weights, sample, name)
    return weights / weights.sum()


def scale_weights(weights: object, sample: Tensor, name: str) -> Tensor:
    """Return a multiple of `weights` in float64 whose sums are as exact as they can be, and cannot overflow.

    Partial sums of whole weights have no rounding error, as long as the total is below 2^53 of their unit, nor have
    those of equal weights.

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
    wrong = ~torch.isfinite(weights) | (weights < 0)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} must be finite and non-negative, got {float(weights[first])} at position {first}"
        )
    largest = float(weights.max())
    if largest == 0.0:
        raise ValueError(f"{name} must have a positive sum, got weights that are all 0")
    if bool(((weights == 0) | (weights == largest)).all()):
        return (weights > 0).double()
    # Division by a power of two leaves every digit as it is. Below 2^-1000 the power itself would lose digits.
    return weights / math.ldexp(1.0, max(math.frexp(largest)[1] - 1, -1000))


def check_number(value: object, name: str, *, meaning: str) -> float:
    """Return `value` as a float after checking that it is a finite real number.

    Raises:
        TypeError: not a real number.
        ValueError: not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite ({meaning}), got {value}")
    return float(value)


def check_positive(value: object, name: str, *, meaning: str) -> float:
    """Return `value` as a float after checking that it is finite and positive.

    Raises:
        TypeError: not a real number.
        ValueError: not positive, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be positive and finite ({meaning}), got {value}")
    return float(value)


def check_level(value: object, name: str) -> float:
    """Return `value` after checking that it lies strictly between 0 and 1.

    Raises:
        TypeError: not a real number.
        ValueError: outside.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number between 0 and 1, got {type(value).__name__}")
    level = float(value)
    if not 0.0 < level < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")
    return level


def check_whole(value: object, name: str, *, least: int) -> int:
    """Return `value` as an int after checking that it is a whole number and large enough.

    Raises:
        TypeError: not a whole number.
        ValueError: below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def check_flag(value: object, name: str) -> None:
    """Refuse anything but True and False.

    Raises:
        TypeError: another type.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def check_levels(levels: object, device: torch.device) -> Tensor:
    """Return quantile levels as a tensor of their own floating type on `device`.

    Raises:
        TypeError: not a tensor, list or number of real type.
        ValueError: outside [0, 1], on another device, or asking for a gradient.
    """
    if isinstance(levels, Tensor):
        if levels.device != device:
            raise ValueError(f"levels are on {levels.device} and the sample is on {device}; move them")
        if levels.requires_grad:
            raise ValueError(
                "levels require a gradient, but a quantile function is a step function; detach them"
            )
        at = levels
    else:
        at = torch.from_numpy(_as_array(levels, "levels", "a number, a list or a tensor")).to(device)
    if at.dtype.is_complex or at.dtype == torch.bool:
        raise TypeError(f"levels must hold real numbers, got {at.dtype}")
    at = at if at.is_floating_point() else at.double()
    if not bool(((at >= 0) & (at <= 1)).all()):
        raise ValueError(f"levels must lie in [0, 1], got {at.flatten().tolist()[:8]}")
    return at


def _as_array(x: object, name: str, wanted: str) -> np.ndarray:
    """Numbers as a float64 array."""
    try:
        array = np.asarray(x)
    except (TypeError, ValueError) as error:  # a ragged list, say
        raise TypeError(f"{name} must be {wanted}, got {type(x).__name__}") from error
    if array.dtype.kind in "bc":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be {wanted}, got {type(x).__name__}")
    return array.astype(np.float64)


def as_statistic(x: object, name: str) -> Tensor:
    """Return a sample as a detached float64 tensor on the host, from a tensor, an array or a list of numbers.

    The statistics of dominance are reported, never differentiated, so they take arrays as well and work in
    double precision.

    Raises:
        TypeError: not made of real numbers.
        ValueError: as `check_sample`.
    """
    if isinstance(x, Tensor):
        if x.dtype.is_complex or x.dtype == torch.bool:
            raise TypeError(f"{name} must hold real numbers, got {x.dtype}")
        tensor = x.detach() if x.is_meta else x.detach().double().cpu()
    else:
        tensor = torch.from_numpy(_as_array(x, name, "a 1-D tensor, array or list of numbers"))
    return check_sample(tensor, name)


def as_statistics(u: object, v: object) -> tuple[Tensor, Tensor, float]:
    """Return two samples as `as_statistic` does, divided by a power of two, and that power.

    Ratios of squared distances do not change when both samples are scaled, but their parts would overflow or
    vanish for values beyond 1e154 or below 1e-154.

    Raises:
        TypeError: a sample that is not made of real numbers.
        ValueError: as `check_sample`.
    """
    one, two = as_statistic(u, "u"), as_statistic(v, "v")
    largest = max(float(one.abs().max()), float(two.abs().max()))
    scale = math.ldexp(1.0, max(math.frexp(largest)[1], -1000) - 1)
    return one / scale, two / scale, scale
