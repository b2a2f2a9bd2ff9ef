"""What one forward pass may hold, and how a rank's rows are cut up accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distal.scoring import PADDED, Layout
from distal.training.batch import rows_per_unit
from distal.types import DataKind, TokenRow

__all__ = ["MicroBatchLimit"]


@dataclass(frozen=True, kw_only=True)
class MicroBatchLimit:
    """What one forward pass may hold: `units` (pairs or samples) or `tokens` (token places of the layout)."""

    units: int | None = None
    tokens: int | None = None

    def cut(self, kind: DataKind, rows: Sequence[TokenRow], layout: Layout = PADDED) -> list[list[int]]:
        """Row indices of each micro-batch, the longest first; a pair stays together."""
        width = rows_per_unit(kind)
        groups = self._cut(rows, width, layout, self.units)
        return [[unit * width + side for unit in group for side in range(width)] for group in groups]

    def cut_rows(
        self, kind: DataKind, rows: Sequence[TokenRow], which: Sequence[int], layout: Layout = PADDED
    ) -> list[list[int]]:
        """The same for some of the rows, one by one: pairs may fall apart, and a group holds as many rows."""
        count = None if self.units is None else self.units * rows_per_unit(kind)
        groups = self._cut([rows[i] for i in which], 1, layout, count)
        return [[which[k] for k in group] for group in groups]

    def _cut(
        self, rows: Sequence[TokenRow], width: int, layout: Layout, count: int | None
    ) -> list[list[int]]:
        if count is not None:
            return layout.cut_by_count(rows, width, count)
        return layout.cut_by_tokens(rows, width, self.tokens or 1)
