"""Any readable data written in TRL's columns, as one file or split by prompt."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distal.data.keys import prompt_key
from distal.data.preparation import OnBadRows
from distal.data.reading import PreferenceSource
from distal.data.reasons import RowProblem
from distal.data.report import DataReport, Tally
from distal.data.rows import OPTIONAL_COLUMNS, trl_row
from distal.data.schemas import Preference
from distal.data.splitting import split_by_group
from distal.data.writing import refuse_existing, row_writer
from distal.errors import DataError
from distal.progress import follow

__all__ = ["Counted", "convert", "followed", "split"]

_PORTION = 1000
_PATIENCE = 2.0
"""Seconds without a progress bar: most files are read before."""


def convert(
    source: PreferenceSource,
    path: Path,
    *,
    overwrite: bool = False,
    on_bad_rows: OnBadRows = "drop",
    progress: str | None = None,
) -> DataReport:
    """Write all usable preferences of a source in TRL's columns, a few rows in memory at a time.

    Args:
        source: opened data.
        path: .jsonl, .jsonl.gz or .parquet.
        overwrite: whether an existing file may be replaced.
        on_bad_rows: "drop" counts what cannot be used and leaves it out; "error" stops at the first.
        progress: what a progress bar says, where it takes longer; None for none.

    Returns:
        What became of every row.

    Raises:
        OutputError: the file exists, or cannot be written.
        DataError: nothing usable is there, or a row that the kind of file cannot hold.
    """
    refuse_existing(path, overwrite=overwrite)
    counted = Counted(source, on_bad_rows, progress)
    with row_writer(path) as write:
        for row in counted:
            write(trl_row(row))
        counted.check()
    return counted.report()


def split(
    source: PreferenceSource,
    train: Path,
    held_out: Path,
    n_or_fraction: int | float,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: str | None = None,
) -> tuple[DataReport, int]:
    """Write the preferences of a source into two files that share no prompt, each in the order of the source.

    Prompts count as equal that differ in case, white space and system messages only.

    Args:
        source: opened data; read twice.
        train: file for the larger part.
        held_out: file for the rest.
        n_or_fraction: how many preferences are held out, at least; whole prompts are.
        seed: of the shuffle of prompts.
        overwrite: whether existing files may be replaced.
        progress: what a progress bar says, where it takes longer; None for none.

    Returns:
        What became of every row, and how many preferences are held out.

    Raises:
        ConfigError: the size is no number of preferences or fraction.
        OutputError: a file exists, or cannot be written.
        DataError: nothing usable is there, or one side would be empty.
    """
    refuse_existing(train, held_out, overwrite=overwrite)
    counted, keys, columns = Counted(source, "drop", progress), array("Q"), set[str]()
    for row in counted:
        keys.append(prompt_key(row))
        columns.update(trl_row(row))
    counted.check()
    columns &= set(OPTIONAL_COLUMNS)
    held = np.zeros(len(keys), dtype=bool)
    held[split_by_group(keys, n_or_fraction, seed, source.name)[1]] = True
    with (
        row_writer(train, columns) as write_train,
        row_writer(held_out, columns) as write_held_out,
    ):
        rows = (made for _, made in followed(source, progress) if isinstance(made, Preference))
        for row, away in zip(rows, held, strict=True):
            (write_held_out if away else write_train)(trl_row(row))
    return counted.report(), int(held.sum())


def followed(source: PreferenceSource, progress: str | None) -> Iterator[tuple[int, Preference | RowProblem]]:
    """All that a source makes of its rows, with a progress bar where it takes longer than a moment."""
    if progress is None:
        return iter(source)
    items = iter(source)
    portions = iter(lambda: list(itertools.islice(items, _PORTION)), [])
    shown = follow(portions, progress, total=source.count(), work=len, patience=_PATIENCE)
    return itertools.chain.from_iterable(shown)


class Counted:
    """The usable preferences of a source, while all others are counted by reason.

    Args:
        source: opened data.
        on_bad_rows: "drop" or "error".
        progress: what a progress bar says, where it takes longer; None for none.
    """

    def __init__(self, source: PreferenceSource, on_bad_rows: OnBadRows, progress: str | None = None) -> None:
        self._source, self._on_bad_rows, self._progress = source, on_bad_rows, progress
        self.tally = Tally()
        self.n_kept = self.n_desirable = 0

    def __iter__(self) -> Iterator[Preference]:
        return (row for _, row in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Preference]]:
        """The usable preferences with their source rows."""
        for number, made in followed(self._source, self._progress):
            self.tally.n_offered += 1
            if isinstance(made, RowProblem):
                if self._on_bad_rows == "error":
                    raise DataError(f"{self._source.name}: row {number} (counted from 0): {made}")
                self.tally.drop(number, made)
                continue
            self.n_kept += 1
            self.n_desirable += made.desirable[0]
            for remark in made.remarks:
                self.tally.note(remark, [number])
            yield number, made

    def check(self) -> None:
        """Refuse a source of which nothing can be used.

        Raises:
            DataError: nothing is left.
        """
        if not self.n_kept:
            raise DataError("\n".join([f"{self._source.name}: no row can be used", *self.report().summary()]))

    def report(self) -> DataReport:
        """What became of every row so far."""
        source = self._source
        return DataReport(
            name=source.name,
            kind=source.kind,
            n_read=source.rows_seen(),
            n_kept=self.n_kept,
            dropped=self.tally.dropped(),
            noted=self.tally.noted(),
            n_desirable=None if source.kind == "paired" else self.n_desirable,
            notes=source.notes,
            n_offered=self.tally.n_offered,
        )
