"""What a model's rule of who may read whom amounts to: the rule of transformers, evaluated over positions."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rule", "window_or_grid"]

Rule = Callable[..., Tensor]
"""Of transformers: batch, head, query position, key position -> whether the query may read the key."""

_FEWEST_POSITIONS = 512
_BLOCK = 2**18
"""Pairs of positions that are looked at together."""

_known: dict[Hashable, tuple[int, int | None]] = {}
"""Positions up to which a rule has been found causal, and its window if that is smaller."""


def window_or_grid(rule: Rule, n: int, device: torch.device) -> tuple[int | None, Tensor | None]:
    """What a rule says for positions below n: a window, or else all of it.

    A rule that is made of nothing but transformers' own functions and of numbers is looked at once, over at least n
    positions: what holds for all their pairs holds for those of the first n.

    Args:
        rule: a mask function of transformers.
        n: number of positions, at least 1.
        device: where the answer should lie, and where rules are evaluated that hold tensors of it.

    Returns:
        The number of positions that a token sees, itself included, where the rule is causal (None for all before
        it); and None, or (n, n) bool on the device for a rule that is no window.

    Examples:
        >>> from transformers.masking_utils import sliding_window_causal_mask_function
        >>> window_or_grid(sliding_window_causal_mask_function(3), 8, torch.device("cpu"))
        (3, None)
    """
    identity = _identity(rule)
    checked, window = _known.get(identity, (0, None)) if identity is not None else (0, None)
    if checked < n:
        # Twice as many as before, so that rows that grow are not looked at again and again.
        checked = n if identity is None else max(_FEWEST_POSITIONS, 1 << (n - 1).bit_length())
        found = _window(rule, checked, device)
        if found is None:
            return None, _on_host_or(device, lambda where: _grid(rule, 0, n, n, where)).to(device)
        window = found if found < checked else None
        if identity is not None:
            _known[identity] = checked, window
    return None if window is None or window >= n else window, None


def _window(rule: Rule, n: int, device: torch.device) -> int | None:
    """How many positions the last of n sees; None where the rule is not that window for all of them."""
    return _on_host_or(device, lambda where: _window_on(rule, n, where))


def _window_on(rule: Rule, n: int, device: torch.device) -> int | None:
    window = int(_grid(rule, n - 1, n, n, device).sum())
    keys = torch.arange(n, device=device)
    for start in range(0, n, step := max(1, _BLOCK // n)):
        stop = min(start + step, n)
        distance = keys[start:stop, None] - keys
        if not torch.equal(_grid(rule, start, stop, n, device), (distance >= 0) & (distance < window)):
            return None
    return window


def _on_host_or(device: torch.device, evaluate: Callable[[torch.device], Any]) -> Any:
    """On the host where it can be, so as not to wait for a device."""
    try:
        return evaluate(torch.device("cpu"))
    except RuntimeError:
        return evaluate(device)


def _grid(rule: Rule, start: int, stop: int, n: int, device: torch.device) -> Tensor:
    """(stop - start, n) bool: what the queries from `start` on may read of n keys."""
    first, keys = torch.zeros(1, dtype=torch.long, device=device), torch.arange(n, device=device)
    queries = keys[start:stop]
    found = rule(first[:, None, None, None], first[None, :, None, None], queries[:, None], keys)
    return found.expand(1, 1, stop - start, n)[0, 0]


def _identity(rule: Any) -> Hashable | None:
    """What tells a rule from all others; None where it may depend on more than can be compared.

    Functions of transformers' module of masks with the same code, which hold the same numbers, compute the same.
    """
    from transformers import masking_utils

    if isinstance(rule, bool | int | float | str | None):
        return type(rule), rule
    if isinstance(rule, tuple):
        parts = tuple(map(_identity, rule))
        return None if None in parts else parts
    if not isinstance(rule, FunctionType) or rule.__globals__ is not masking_utils.__dict__:
        return None
    held = (*(rule.__defaults__ or ()), *(cell.cell_contents for cell in rule.__closure__ or ()))
    parts = _identity(held)
    return None if parts is None or rule.__kwdefaults__ else (rule.__code__, parts)
