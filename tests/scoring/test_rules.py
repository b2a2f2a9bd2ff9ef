"""What rules of attention amount to, against all of their values pair by pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_overlay,
    or_masks,
    packed_sequence_mask_function,
    sliding_window_causal_mask_function,
    sliding_window_overlay,
)

from distal.scoring.rules import window_or_grid

HOST = torch.device("cpu")


def pairwise(rule, n):
    """(n, n) bool, each pair asked by itself."""
    zero = torch.tensor(0)
    return torch.tensor(
        [[bool(rule(zero, zero, torch.tensor(q), torch.tensor(k))) for k in range(n)] for q in range(n)]
    )


def meant(found, n):
    """(n, n) bool that a window or a grid stands for."""
    window, grid = found
    if grid is not None:
        return grid
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return (distance >= 0) & (distance < (n if window is None else window))


RULES: dict[str, Any] = {
    "causal": causal_mask_function,
    "window of 1": sliding_window_causal_mask_function(1),
    "window of 5": sliding_window_causal_mask_function(5),
    "window of 11": sliding_window_causal_mask_function(11),
    "window of 12": sliding_window_causal_mask_function(12),
    "window of 1000": sliding_window_causal_mask_function(1000),
    "a window that sees what comes": sliding_window_overlay(4),
    "nested": and_masks(
        and_masks(sliding_window_overlay(7), causal_mask_function), sliding_window_overlay(4)
    ),
    "either": or_masks(sliding_window_causal_mask_function(3), sliding_window_causal_mask_function(6)),
    "chunks": and_masks(chunked_overlay(4, torch.zeros(1, dtype=torch.long)), causal_mask_function),
    "two sequences": and_masks(
        causal_mask_function, packed_sequence_mask_function(torch.tensor([[0] * 7 + [1] * 5]))
    ),
    "of somebody else": lambda batch, head, q, k: (k <= q) & (q - k < 6),
    "a window but for one pair": lambda batch, head, q, k: (k <= q) & (q - k < 6) & ((q != 3) | (k != 2)),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_what_its_pairs_are(name):
    """Twice, and in between over fewer positions: what is known by then must not say otherwise."""
    for n in (12, 3, 12):
        assert torch.equal(meant(window_or_grid(RULES[name], n, HOST), n), pairwise(RULES[name], n))


def test_windows_are_told_as_windows():
    assert window_or_grid(sliding_window_causal_mask_function(5), 12, HOST) == (5, None)
    assert window_or_grid(sliding_window_causal_mask_function(12), 12, HOST) == (None, None)
    assert window_or_grid(RULES["of somebody else"], 12, HOST) == (6, None)


def test_a_window_that_ends_beyond_what_was_looked_at_is_found_when_rows_reach_it():
    rule = sliding_window_causal_mask_function(700)
    assert [window_or_grid(rule, n, HOST)[0] for n in (10, 600, 701, 700, 3000)] == [
        None,
        None,
        700,
        None,
        700,
    ]


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_rule_of_transformers_is_looked_at_once():
    """Another object in each forward pass, but the same functions and numbers."""
    with Operations() as before:
        window_or_grid(sliding_window_causal_mask_function(123), 600, HOST)
    with Operations() as after:
        found = [window_or_grid(sliding_window_causal_mask_function(123), n, HOST) for n in (600, 50, 1024)]
    assert found == [(123, None), (None, None), (123, None)]
    assert before.count > 0 == after.count


def test_a_rule_that_is_not_transformers_own_is_looked_at_each_time():
    """It may depend on anything."""
    width = {"is": 4}

    def rule(batch, head, q, k):
        return (k <= q) & (q - k < width["is"])

    assert window_or_grid(and_masks(rule, causal_mask_function), 9, HOST) == (4, None)
    width["is"] = 2
    assert window_or_grid(and_masks(rule, causal_mask_function), 9, HOST) == (2, None)
