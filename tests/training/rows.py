"""Token rows as a data set."""

from __future__ import annotations

from distal.types import DataKind


class ListOfRows:
    """A `RowSource` over rows in memory."""

    def __init__(self, rows, paired):
        self.kind: DataKind = "paired" if paired else "unpaired"
        self._width = 2 if paired else 1
        self._rows = rows

    def __len__(self):
        return len(self._rows) // self._width

    def __getitem__(self, index):
        return self._rows[index * self._width : (index + 1) * self._width]

    @property
    def fingerprint(self):
        return str([(row.input_ids, row.prompt_length) for row in self._rows])
