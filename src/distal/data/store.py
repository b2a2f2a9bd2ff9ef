"""Tokenised rows in an Arrow file mapped into memory, so that a million of them are no Python lists."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from distal.errors import OutputError

__all__ = ["ArrowBatch", "RowBatch", "RowStore", "RowWriter"]

# pyarrow has no type stubs: its classes are unknown to the type checker.
ArrowBatch: TypeAlias = Any
ArrowTable: TypeAlias = Any

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("desirable", pa.bool_()),
        ("source_row", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
    ]
)


@dataclass(slots=True)
class RowBatch:
    """Rows on their way to a file, column by column.

    Attributes:
        tokens: ids of all rows, one after the other.
        lengths: how many ids each row has.
        prompt_lengths: how many of them belong to the prompt.
        desirable: chosen or liked.
        source_rows: 0-based rows of the source.
        prompts: text of each prompt; None where it is that of the row before (the rejected side of a pair).
        completions: text of each completion.
    """

    tokens: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    prompt_lengths: list[int] = field(default_factory=list)
    desirable: list[bool] = field(default_factory=list)
    source_rows: list[int] = field(default_factory=list)
    prompts: list[str | None] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)

    def to_arrow(self) -> ArrowBatch:
        """The rows as an Arrow record batch."""
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int32)
        np.cumsum(self.lengths, out=offsets[1:])
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(self.tokens, dtype=np.int32)))
        columns = [ids, self.prompt_lengths, self.desirable, self.source_rows, self.prompts, self.completions]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=kind.type)
            for column, kind in zip(columns, SCHEMA, strict=True)
        ]
        return pa.record_batch(arrays, schema=SCHEMA)


class RowWriter:
    """Appends batches of rows to a temporary file, and opens it for reading when it is complete.

    The file loses its name as soon as it is mapped, where the system allows that: the space is free again
    when the last process lets go of it, however that process ends.

    Example:
        >>> batch = RowBatch([1, 2], [2], [1], [True], [0], ["a"], ["b"])
        >>> with RowWriter() as writer:
        ...     writer.append(batch.to_arrow())
        ...     store = writer.finish()
        >>> len(store), store.tokens(0).tolist(), store.completion(0)
        (1, [1, 2], 'b')
    """

    def __init__(self) -> None:
        with _explained():
            handle, self._name = tempfile.mkstemp(prefix="distal-rows-", suffix=".arrow")
            os.close(handle)
            self._sink = pa.OSFile(self._name, "wb")
            self._writer = pa.ipc.new_file(self._sink, SCHEMA)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._sink.close()
        with suppress(OSError):
            Path(self._name).unlink()

    def append(self, batch: ArrowBatch) -> None:
        """Write one batch; empty ones are left out."""
        if batch.num_rows:
            with _explained():
                self._writer.write_batch(batch)

    def finish(self) -> RowStore:
        """Complete the file and map it into memory."""
        with _explained():
            self._writer.close()
            self._sink.close()
            return RowStore(pa.ipc.open_file(pa.memory_map(self._name)).read_all())


@contextmanager
def _explained() -> Generator[None]:
    """Says what to do where the temporary file cannot be written."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            f"cannot write the tokenised rows to a temporary file: {reason}; make room in the folder of temporary "
            "files, or name another in the environment variable TMPDIR"
        ) from error


class RowStore:
    """Read access to tokenised rows by number.

    Args:
        table: rows with the columns of `SCHEMA`; their buffers are used where they lie, not copied.

    Attributes:
        lengths: tokens per row, (n,).
        prompt_lengths: prompt tokens per row, (n,).
        desirable: bool per row, (n,).
        source_rows: 0-based rows of the source, (n,).
    """

    def __init__(self, table: ArrowTable) -> None:
        self._table = table
        chunks = table.column("input_ids").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._values = [chunk.values.to_numpy() for chunk in chunks]
        self._first_rows = np.cumsum([0] + [len(chunk) for chunk in chunks])
        empty = [np.zeros(0, dtype=np.int64)]
        self.lengths = np.concatenate([np.diff(offsets) for offsets in self._offsets] or empty).astype(
            np.int64
        )
        self.prompt_lengths = table.column("prompt_length").to_numpy()
        self.desirable = table.column("desirable").to_numpy()
        self.source_rows = table.column("source_row").to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the rows themselves: the file has no name by which another process could find it."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(self._table)
        return _from_buffer, (sink.getvalue().to_pybytes(),)

    def tokens(self, row: int) -> np.ndarray:
        """Token ids of a row as a view into the file, int32."""
        chunk = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        offsets, local = self._offsets[chunk], row - self._first_rows[chunk]
        return self._values[chunk][offsets[local] : offsets[local + 1]]

    def prompt(self, row: int) -> str:
        """Text of a row's prompt."""
        text = self._table.column("prompt")[row].as_py()
        return self._table.column("prompt")[row - 1].as_py() if text is None else text

    def completion(self, row: int) -> str:
        """Text of a row's completion."""
        return self._table.column("completion")[row].as_py()


def _from_buffer(content: bytes) -> RowStore:
    return RowStore(pa.ipc.open_file(pa.py_buffer(content)).read_all())
