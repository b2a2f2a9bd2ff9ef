"""Data files written row by row under a temporary name, and put in place when they are complete."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from distal.data.rows import check_for_table
from distal.errors import ConfigError, DataError, OutputError

__all__ = ["WRITERS", "refuse_existing", "row_writer"]

Write = Callable[[Mapping[str, Any]], None]

_BATCH_ROWS = 1000


def refuse_existing(*paths: Path, overwrite: bool) -> None:
    """Refuse, before anything is read, to replace files that the user has not given up.

    Raises:
        OutputError: a file exists.
        ConfigError: no writer knows its ending.
    """
    for path in paths:
        _kind(path)
        if path.is_dir():
            raise OutputError(f"{path} is a folder; name a file in it")
    existing = [str(path) for path in paths if path.exists()]
    if existing and not overwrite:
        raise OutputError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already; nothing was touched. Name "
            f"another place, or add --overwrite."
        )


@contextmanager
def row_writer(path: Path, columns: Collection[str] = ()) -> Generator[Write]:
    """A function that appends a row to the file, which appears when the block ends without an error.

    Args:
        path: .jsonl, .jsonl.gz or .parquet; parent folders are made.
        columns: optional ones that a table is to have, whether its own rows fill them or not: the parts of a split
            have the same columns. Whatever else a row brings along becomes a column as well.

    Raises:
        OutputError: it cannot be written.
        DataError: a row that the kind of file cannot hold.
    """
    write_rows = WRITERS[_kind(path)]
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        with write_rows(temporary, columns) as write:
            yield write
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; choose a folder that is writable and not full"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextmanager
def _json_lines(path: str, columns: Collection[str]) -> Generator[Write]:
    with open(path, "wb") as file:
        yield lambda row: cast(None, file.write(_line(row)))


@contextmanager
def _zipped_lines(path: str, columns: Collection[str]) -> Generator[Write]:
    # No name and no time inside: the same rows give the same bytes.
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        yield lambda row: cast(None, file.write(_line(row)))


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


@contextmanager
def _parquet(path: str, columns: Collection[str]) -> Generator[Write]:
    table = _Table(path, columns)
    try:
        yield table.write
        table.flush()
    finally:
        table.close()


class _Table:
    """A Parquet file that gets a column when the first row that fills it comes by.

    Args:
        path: of the file.
        columns: optional ones that it has from the beginning.
    """

    def __init__(self, path: str, columns: Collection[str]) -> None:
        self._path, self._columns = path, columns
        self._waiting: list[Mapping[str, Any]] = []
        self._schema: Any = None
        self._writer: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._waiting.append(check_for_table(row))
        if len(self._waiting) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand on the rows that wait.

        Raises:
            DataError: they do not fit into one table.
        """
        import pyarrow as pa

        if not self._waiting:
            return
        self._make_room()
        try:
            table = pa.Table.from_pylist(self._waiting, schema=self._schema)
        except (pa.ArrowException, TypeError) as error:
            raise DataError(
                f"the rows do not fit into one table: {str(error).splitlines()[0]}; write .jsonl instead"
            ) from error
        self._writer.write_table(table)
        self._waiting.clear()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _make_room(self) -> None:
        """See to it that the file has every column of the rows that wait."""
        import pyarrow.parquet as pq

        if self._writer is None:
            self._schema = _schema(self._waiting, self._columns)
            self._writer = pq.ParquetWriter(self._path, self._schema)
            return
        schema = _schema(self._waiting, (), self._schema)
        if len(schema) > len(self._schema):
            self.close()
            self._schema, self._writer = schema, _widened(self._path, schema)


def _widened(path: str, schema: Any) -> Any:
    """A writer that goes on behind the rows of a file, which it has written again with further, empty columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    narrow = f"{path}.narrow"
    os.replace(path, narrow)
    try:
        writer = pq.ParquetWriter(path, schema)
        with pq.ParquetFile(narrow) as file:
            known = set(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                columns = [
                    batch.column(field.name) if field.name in known else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    finally:
        os.unlink(narrow)
    return writer


def _schema(rows: Sequence[Mapping[str, Any]], columns: Collection[str], known: Any = ()) -> Any:
    """Types of the columns; the optional ones stand last, in an order of their own.

    Args:
        rows: those that the columns are for.
        columns: further, optional ones.
        known: columns that are there already, with their types.
    """
    import pyarrow as pa

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    types = {bool: pa.bool_(), float: pa.float64(), str: pa.string(), list: messages}
    optional = {"tools": pa.string(), "weight": pa.float64()}
    found = {field.name: field.type for field in known}
    for row in rows:
        for column, value in row.items():
            found.setdefault(column, types[type(value)])
    # Options of the template are optional too, but a row that has some is refused: no table holds them.
    found |= {column: kind for column, kind in optional.items() if column in columns}
    order = {column: place for place, column in enumerate(optional)}
    return pa.schema(sorted(found.items(), key=lambda item: order.get(item[0], -1)))


WRITERS: dict[str, Callable[[str, Collection[str]], Any]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _zipped_lines,
    ".parquet": _parquet,
}
"""File ending -> writer."""


def _kind(path: Path) -> str:
    for ending in WRITERS:
        if path.name.lower().endswith(ending):
            return ending
    raise ConfigError(
        f"{path}: unknown kind of file to write; name it {', '.join('*' + end for end in WRITERS)}"
    )


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
