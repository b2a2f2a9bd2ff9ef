"""Rows as the tensors of one forward pass: all that it reads, and all that sums over it need, on one device.

Everything is made on the host and copied at once, so that no step of a pass waits for the device. Shape letters as in
`distal.scoring.layouts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distal.scoring.segments import Segments, VarlenIndex
from distal.scoring.targets import scored_only, stretches, targets_of
from distal.scoring.transfer import integers_to
from distal.types import TokenRow

__all__ = ["LaidOutBatch", "laid_out_on"]


@dataclass(frozen=True, slots=True)
class LaidOutBatch:
    """Rows laid out for one forward pass.

    Attributes:
        input_ids: (B, T) token ids; the id at padded places is arbitrary, and no token of a row reads it.
        attention_mask: (B, T) True where a token stands; None where one stands everywhere.
        position_ids: (B, T) position of each token in its sequence; None where the model's own count is right.
        segments: what stands in the one row (B = 1) and who reads whom; None where every row is a sequence.
        predictions: (N,) places, numbered through all B rows, where the model, having read all up to there,
            predicts a scored completion token; those of the first row first, in the order of its tokens. A place
            occurs more than once where answers share their prompt.
        targets: (N,) the predicted tokens.
        counts: scored completion tokens of each row, R numbers on the host.
        cells: (N,) places of the predicted tokens in a grid of R rows, numbered through, as wide as the largest count.
        varlen: what attention over sequences of different lengths needs to know of the segments; None where they are.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    position_ids: Tensor | None
    segments: Segments | None
    predictions: Tensor
    targets: Tensor
    counts: tuple[int, ...]
    cells: Tensor
    varlen: VarlenIndex | None

    def sum_by_row(self, token_values: Tensor) -> Tensor:
        """Sum N per-token values within their rows: (N,) -> (R,).

        Through a grid with a row for each: unlike an indexed addition that is deterministic on every device.
        """
        shape = len(self.counts), max(self.counts)
        grid = token_values.new_zeros(shape[0] * shape[1])
        return grid.scatter(0, self.cells, token_values).view(shape).sum(dim=1)


def laid_out_on(
    device: torch.device | str,
    rows: Sequence[TokenRow],
    input_ids: Tensor,
    mask: Tensor | None,
    predictions: Tensor,
    segments: Segments | None = None,
) -> LaidOutBatch:
    """What a layout made of rows on the host, with all that their sums need, on a device: in one copy.

    Args:
        device: of the model.
        rows: R of them.
        input_ids: (B, T).
        mask: (B, T) where a token stands, None for everywhere.
        predictions: places that predict a completion token, those of tokens that are not scored included.
        segments: what stands in a single row of tensors.
    """
    counts = tuple(row.scored_length for row in rows)
    cells = stretches([k * max(counts) for k in range(len(rows))], counts)
    held = [input_ids, scored_only(rows, predictions), targets_of(rows), cells]
    if segments is None:
        input_ids, predictions, targets, cells, *masks = integers_to(
            device, held if mask is None else [*held, mask]
        )
        mask = masks[0] if masks else None
        return LaidOutBatch(input_ids, mask, None, None, predictions, targets, counts, cells, None)
    index = segments.varlen_index()
    input_ids, predictions, targets, cells, positions, *indices = integers_to(
        device, [*held, segments.position_ids()[None], *index.tensors]
    )
    varlen = index.with_tensors(indices)
    return LaidOutBatch(input_ids, None, positions, segments, predictions, targets, counts, cells, varlen)
