"""Tokenised rows in an Arrow file mapped into memory, so that a million of them are no Python lists."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distal.errors import OutputError

__all__ = ["ArrowBatch", "RowBatch", "RowStore", "RowWriter"]

# pyarrow has no type stubs: its classes are unknown to the type checker.
ArrowBatch: TypeAlias = Any
ArrowTable: TypeAlias = Any

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("scored_length", pa.int32()),
        ("completion_mask", pa.binary()),
        ("desirable", pa.bool_()),
        ("source_row", pa.int64()),
        ("group", pa.uint64()),
        ("weight", pa.float64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
    ]
)

_RESIDENT = 64 * 2**20
"""Bytes of a mapped file that may have been read before its pages are given back."""

_AROUND = 2**16
"""Bytes that the system maps where one is read."""


@dataclass(slots=True)
class RowBatch:
    """Rows on their way to a file, column by column.

    Attributes:
        tokens: ids of all rows, one after the other.
        lengths: how many ids each row has.
        prompt_lengths: how many of them belong to the prompt.
        masks: which completion tokens are scored, a byte for each; None for all.
        desirable: chosen or liked.
        source_rows: 0-based rows of the source.
        groups: numbers that are equal where rows must not be torn apart.
        weights: how much each row counts; None where it does not say.
        prompts: text of each prompt; None where it is that of the row before (the rejected side of a pair).
        completions: text of each completion.
    """

    tokens: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    prompt_lengths: list[int] = field(default_factory=list)
    masks: list[bytes | None] = field(default_factory=list)
    desirable: list[bool] = field(default_factory=list)
    source_rows: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    weights: list[float | None] = field(default_factory=list)
    prompts: list[str | None] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)

    def add(
        self,
        prompt: Sequence[int],
        completion: Sequence[int],
        texts: tuple[str | None, str],
        *,
        desirable: bool,
        source_row: int,
        group: int = 0,
        weight: float | None = None,
        mask: Sequence[bool] | None = None,
    ) -> None:
        """Take in one row: its ids, its texts, and what is known of it."""
        self.tokens += prompt
        self.tokens += completion
        self.lengths.append(len(prompt) + len(completion))
        self.prompt_lengths.append(len(prompt))
        self.masks.append(None if mask is None or all(mask) else bytes(mask))
        self.desirable.append(desirable)
        self.source_rows.append(source_row)
        self.groups.append(group)
        self.weights.append(weight)
        self.prompts.append(texts[0])
        self.completions.append(texts[1])

    def to_arrow(self) -> ArrowBatch:
        """The rows as an Arrow record batch."""
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int32)
        np.cumsum(self.lengths, out=offsets[1:])
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(self.tokens, dtype=np.int32)))
        scored = [
            length - prompt if mask is None else mask.count(1)
            for length, prompt, mask in zip(self.lengths, self.prompt_lengths, self.masks, strict=True)
        ]
        columns = [ids, self.prompt_lengths, scored, self.masks, self.desirable, self.source_rows]
        columns += [self.groups, self.weights, self.prompts, self.completions]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=kind.type)
            for column, kind in zip(columns, SCHEMA, strict=True)
        ]
        return pa.record_batch(arrays, schema=SCHEMA)


class RowWriter:
    """Appends batches of rows to a file, and opens it for reading when it is complete.

    A file without a name of its own is temporary. It loses its name as soon as it is mapped, where the system allows
    that: the space is free again when the last process lets go of it, however that process ends.

    Args:
        path: the file; None for a temporary one.
        in_memory: keep the rows in memory, without any file.

    Examples:
        >>> batch = RowBatch()
        >>> batch.add([1], [2], ("a", "b"), desirable=True, source_row=0)
        >>> with RowWriter() as writer:
        ...     writer.append(batch.to_arrow())
        ...     store = writer.finish()
        >>> len(store), store.tokens(0).tolist(), store.completion(0)
        (1, [1, 2], 'b')
    """

    def __init__(self, path: Path | None = None, *, in_memory: bool = False) -> None:
        self._path, self._temporary = path, None
        with self._explained():
            if in_memory:
                self._sink: Any = pa.BufferOutputStream()
            else:
                if path is None:
                    handle, self._temporary = tempfile.mkstemp(prefix="distal-rows-", suffix=".arrow")
                    os.close(handle)
                self._sink = pa.OSFile(str(path or self._temporary), "wb")
            self._writer = pa.ipc.new_file(self._sink, SCHEMA)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._sink.close()
        if self._temporary is not None:
            with suppress(OSError):
                Path(self._temporary).unlink()

    def append(self, batch: ArrowBatch) -> None:
        """Write one batch; empty ones are left out."""
        if batch.num_rows:
            with self._explained():
                self._writer.write_batch(batch)

    def close(self) -> None:
        """Complete the file."""
        with self._explained():
            self._writer.close()
            if not isinstance(self._sink, pa.BufferOutputStream):
                self._sink.close()

    def finish(self) -> RowStore:
        """Complete the file and open it."""
        self.close()
        if isinstance(self._sink, pa.BufferOutputStream):
            return RowStore.from_buffer(self._sink.getvalue())
        with self._explained():
            return RowStore.open(self._path or str(self._temporary), named=self._path is not None)

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Says what to do where the file cannot be written."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            where, mend = (
                (
                    "to a temporary file",
                    "make room in the folder of temporary files, or name another in the environment variable TMPDIR",
                )
                if self._path is None
                else (
                    f"to {self._path.parent}",
                    "make room there, name another folder in the environment variable DISTAL_CACHE, or keep no "
                    "tokenised rows (dataset_cache: false)",
                )
            )
            raise OutputError(f"cannot write the tokenised rows {where}: {reason}; {mend}") from error


class RowStore:
    """Read access to tokenised rows by number.

    A few numbers per row are held in memory. Tokens and texts stay in the file; the pages that reading them maps are
    given back from time to time, so that the resident memory of a process does not grow with the data that passes.

    Args:
        table: rows with the columns of `SCHEMA`; their buffers are used where they lie, not copied.
        release: gives the pages back that have been read, where they are those of a file.
        path: file by which other processes find the rows; None where it has no name.

    Attributes:
        lengths: tokens per row, (n,).
        prompt_lengths: prompt tokens per row, (n,).
        scored_lengths: completion tokens that make up the score, per row, (n,).
        desirable: bool per row, (n,).
        source_rows: 0-based rows of the source, (n,).
        groups: numbers per row, equal where rows must not be torn apart, (n,).
        weights: how much each row counts, 1 where it does not say, (n,); None where none says.
        has_masks: whether any row leaves completion tokens out of its score.
    """

    def __init__(
        self, table: ArrowTable, release: Callable[[], None] = lambda: None, path: Path | None = None
    ) -> None:
        self._table, self._release, self._path = table, release, path
        self._read = 0
        chunks = table.column("input_ids").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        self._first_rows = np.cumsum([0] + [len(chunk) for chunk in chunks])
        self.lengths = np.zeros(len(table), dtype=np.int64)
        for first, offsets in zip(self._first_rows, self._offsets, strict=False):
            self.lengths[first : first + len(offsets) - 1] = np.diff(offsets)
            self._pass(offsets.nbytes)
        self.prompt_lengths: NDArray[np.int32] = self._column("prompt_length", np.int32)
        self.scored_lengths: NDArray[np.int32] = self._column("scored_length", np.int32)
        self.desirable: NDArray[np.bool_] = self._column("desirable", np.bool_)
        self.source_rows: NDArray[np.int64] = self._column("source_row", np.int64)
        self.groups: NDArray[np.uint64] = self._column("group", np.uint64)
        self.weights: NDArray[np.float64] | None = None
        if table.column("weight").null_count < len(table):
            self.weights = np.nan_to_num(self._column("weight", np.float64), nan=1.0)
        self.has_masks = table.column("completion_mask").null_count < len(table)
        self._release()

    @staticmethod
    def open(path: str | Path, *, named: bool = True) -> RowStore:
        """Map a complete file into memory.

        Args:
            path: the file.
            named: whether it keeps its name, so that other processes can open it too.

        Raises:
            OSError, pyarrow.ArrowInvalid: it cannot be read, or holds something else.
        """
        with Path(path).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        def release() -> None:
            # Only the mapping lets go; the pages stay in the system's cache as long as it likes.
            if hasattr(mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        if table.schema != SCHEMA:
            raise pa.ArrowInvalid("the file has other columns")
        return RowStore(table, release, Path(path) if named else None)

    @staticmethod
    def from_buffer(content: Any) -> RowStore:
        """Rows in memory, as an Arrow file."""
        return RowStore(pa.ipc.open_file(pa.py_buffer(content)).read_all())

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name of the file, or the rows themselves where no other process could find it."""
        if self._path is not None and self._path.exists():
            return RowStore.open, (self._path,)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(self._table)
        return RowStore.from_buffer, (sink.getvalue().to_pybytes(),)

    def tokens(self, row: int) -> NDArray[np.int32]:
        """Token ids of a row as a view into the file, int32."""
        chunk = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        offsets, local = self._offsets[chunk], row - self._first_rows[chunk]
        found = self._values[chunk][offsets[local] : offsets[local + 1]]
        self._pass(found.nbytes)
        return found

    def all_tokens(self) -> Iterator[NDArray[np.int32]]:
        """Token ids of all rows, one after the other, in pieces that know no rows."""
        for values in self._values:
            yield values
            self._pass(values.nbytes)

    def mask(self, row: int) -> list[bool] | None:
        """Which completion tokens of a row are scored; None for all."""
        if not self.has_masks:
            return None
        found = self._table.column("completion_mask")[row].as_py()
        self._pass(_AROUND)
        return None if found is None else [bool(one) for one in found]

    def prompt(self, row: int) -> str:
        """Text of a row's prompt."""
        text = self._table.column("prompt")[row].as_py()
        self._pass(_AROUND)
        return self._table.column("prompt")[row - 1].as_py() if text is None else text

    def completion(self, row: int) -> str:
        """Text of a row's completion."""
        self._pass(_AROUND)
        return self._table.column("completion")[row].as_py()

    def _column(self, name: str, dtype: type) -> NDArray[Any]:
        """A copy of a column of numbers, made chunk by chunk."""
        found = np.zeros(len(self._table), dtype=dtype)
        first = 0
        for chunk in self._table.column(name).chunks:
            found[first : first + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
            first += len(chunk)
            self._pass(chunk.nbytes)
        return found

    def _pass(self, n_bytes: int) -> None:
        """Count what has been read, and give its pages back when that is enough."""
        self._read += n_bytes + _AROUND
        if self._read > _RESIDENT:
            self._release()
            self._read = 0
