"""Which tokens of rows are scored, and the numbers of places and tokens that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distal.types import TokenRow

__all__ = ["ids_of", "scored_only", "stretches", "targets_of"]


def ids_of(row: TokenRow) -> Tensor:
    """(n,) token ids of a row, int64."""
    return torch.as_tensor(row.input_ids, dtype=torch.long)


def targets_of(rows: Sequence[TokenRow]) -> Tensor:
    """(N,) scored completion tokens, row after row."""
    return scored_only(rows, torch.cat([ids_of(row)[row.prompt_length :] for row in rows]))


def scored_only(rows: Sequence[TokenRow], by_token: Tensor) -> Tensor:
    """Of a value for each completion token, row after row, those of the tokens that are scored.

    Args:
        rows: whose `completion_mask` says so.
        by_token: one value for each completion token of all rows.

    Returns:
        (N,) values in the same order.

    Raises:
        ValueError: a mask has not one entry per completion token, or leaves nothing to score.

    Examples:
        >>> row = TokenRow([1, 5, 6, 7], 1, True, 0, 0, completion_mask=[True, False, True])
        >>> scored_only([row], torch.tensor([5, 6, 7])).tolist()
        [5, 7]
    """
    if all(row.completion_mask is None for row in rows):
        return by_token
    masks = [_mask(row) for row in rows]
    return by_token[torch.cat(masks)]


def _mask(row: TokenRow) -> Tensor:
    if row.completion_mask is None:
        return torch.ones(row.completion_length, dtype=torch.bool)
    mask = torch.as_tensor(row.completion_mask, dtype=torch.bool)
    if mask.shape != (row.completion_length,) or not mask.any():
        raise ValueError(
            f"row {row.source_row}: its completion mask should have an entry for each of {row.completion_length} "
            f"tokens, at least one of them true; got {mask.tolist()}"
        )
    return mask


def stretches(starts: Sequence[int], counts: Sequence[int]) -> Tensor:
    """`starts[k], starts[k] + 1, ...`, `counts[k]` numbers for each k.

    Examples:
        >>> stretches([3, 7], [2, 1]).tolist()
        [3, 4, 7]
    """
    count = torch.tensor(counts)
    before = count.cumsum(0) - count
    return torch.arange(int(count.sum())) + (torch.tensor(starts) - before).repeat_interleave(count)
