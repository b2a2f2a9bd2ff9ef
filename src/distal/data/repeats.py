"""Rows that repeat an earlier one, or contradict another; counted with a few bytes per row."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np

from distal.data.report import Tally

__all__ = ["Repeats"]


class Repeats:
    """Finds repeated and contradicting rows after all have passed by.

    A paired row is repeated by one with the same prompt, chosen and rejected, and contradicted by one with
    chosen and rejected exchanged. An unpaired row is repeated by one with the same prompt, completion and
    label, and contradicted by one with the other label.
    """

    def __init__(self) -> None:
        self._texts = array("Q")
        self._sides = array("B")
        self._rows = array("q")

    @staticmethod
    def keys(prompt: str, completions: Sequence[str], desirable: Sequence[bool]) -> tuple[int, bool]:
        """A number for the texts of a row whatever their order, and which way round the row has them."""
        ordered = sorted(completions)
        digest = hashlib.blake2b(digest_size=8)
        for text in (prompt, *ordered):
            digest.update(len(text).to_bytes(8, "little") + text.encode())
        way = completions[0] == ordered[0] if len(completions) == 2 else desirable[0]
        return int.from_bytes(digest.digest(), "little"), way

    def add(self, keys: Sequence[tuple[int, bool]], source_rows: Sequence[int]) -> None:
        """Take in the keys of kept rows."""
        self._texts.extend(key for key, _ in keys)
        self._sides.extend(way for _, way in keys)
        self._rows.extend(source_rows)

    def note(self, tally: Tally) -> None:
        """Count duplicates (all but the first of a kind) and contradicted rows."""
        texts, sides, rows = (np.asarray(column) for column in (self._texts, self._sides, self._rows))
        if not len(texts):
            return
        _, group = np.unique(texts, return_inverse=True)
        seen = np.zeros((group.max() + 1, 2), dtype=bool)
        seen[group, sides] = True
        _, first = np.unique(group * 2 + sides, return_index=True)
        repeated = np.ones(len(texts), dtype=bool)
        repeated[first] = False
        tally.note("duplicate", rows[repeated].tolist())
        tally.note("contradiction", rows[seen[group].all(axis=1)].tolist())
