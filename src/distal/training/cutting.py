"""What one forward pass may hold, and how a rank's rows are cut up accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distal.scoring import cut_by_count, cut_by_tokens
from distal.training.batch import rows_per_unit
from distal.types import DataKind, TokenRow

__all__ = ["MicroBatchLimit"]


@dataclass(frozen=True, kw_only=True)
class MicroBatchLimit:
    """What one forward pass may hold: `units` (pairs or samples) or `tokens` (padding included)."""

    units: int | None = None
    tokens: int | None = None

    def cut(self, kind: DataKind, rows: Sequence[TokenRow]) -> list[list[int]]:
        """Row indices of each micro-batch, the longest rows first; a pair stays together."""
        width = rows_per_unit(kind)
        longest = [max(len(row.input_ids) for row in rows[i : i + width]) for i in range(0, len(rows), width)]
        if self.units is not None:
            groups = cut_by_count(longest, self.units)
        else:
            groups = cut_by_tokens(longest, self.tokens or 1, rows_per_unit=width)
        return [[unit * width + side for unit in group for side in range(width)] for group in groups]

    def cut_rows(self, kind: DataKind, rows: Sequence[TokenRow], which: Sequence[int]) -> list[list[int]]:
        """The same for some of the rows, one by one: pairs may fall apart, and a group holds as many rows."""
        lengths = [len(rows[i].input_ids) for i in which]
        if self.units is not None:
            groups = cut_by_count(lengths, self.units * rows_per_unit(kind))
        else:
            groups = cut_by_tokens(lengths, self.tokens or 1)
        return [[which[k] for k in group] for group in groups]
