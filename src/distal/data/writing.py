"""Data files written row by row under a temporary name, and put in place when they are complete."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
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
def row_writer(path: Path) -> Generator[Write]:
    """A function that appends a row to the file, which appears when the block ends without an error.

    Args:
        path: .jsonl, .jsonl.gz or .parquet; parent folders are made.

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
        with write_rows(temporary) as write:
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
def _json_lines(path: str) -> Generator[Write]:
    with open(path, "wb") as file:
        yield lambda row: cast(None, file.write(_line(row)))


@contextmanager
def _zipped_lines(path: str) -> Generator[Write]:
    # No name and no time inside: the same rows give the same bytes.
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        yield lambda row: cast(None, file.write(_line(row)))


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


@contextmanager
def _parquet(path: str) -> Generator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Mapping[str, Any]] = []
    opened: list[Any] = []

    def flush() -> None:
        if not waiting:
            return
        if not opened:
            opened.append(pq.ParquetWriter(path, _schema(waiting[0])))
        try:
            table = pa.Table.from_pylist(waiting, schema=opened[0].schema)
        except (pa.ArrowException, TypeError) as error:
            raise DataError(
                f"the rows do not fit into one table: {str(error).splitlines()[0]}; write .jsonl instead"
            ) from error
        opened[0].write_table(table)
        waiting.clear()

    def write(row: Mapping[str, Any]) -> None:
        waiting.append(check_for_table(row))
        if len(waiting) >= _BATCH_ROWS:
            flush()

    try:
        yield write
        flush()
    finally:
        for writer in opened:
            writer.close()


def _schema(row: Mapping[str, Any]) -> Any:
    """Types of the columns, from the first row."""
    import pyarrow as pa

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    types = {bool: pa.bool_(), float: pa.float64(), str: pa.string(), list: messages}
    return pa.schema([(column, types[type(value)]) for column, value in row.items()])


WRITERS: dict[str, Callable[[str], Any]] = {
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
