"""Readers of local files: one row after the other, with errors that name the file and the line."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeGuard, cast

from distal.data.values import describe_json_type
from distal.errors import DataError

__all__ = [
    "READERS",
    "missing_path",
    "parquet_columns",
    "read_csv",
    "read_json",
    "read_jsonl",
    "read_parquet",
    "reader_for",
    "row_count",
    "unreadable",
]

Row = Mapping[str, Any]
Reader = Callable[[Path, Collection[str]], Iterator[Row]]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_SHOWN = 60
_BATCH_ROWS = 1000
_LONGEST_FIELD = 2**31 - 1
"""Characters of one value in a CSV file; the library's own limit is below what answers of models can be."""


def reader_for(path: Path) -> Reader:
    """Choose the reader by the ending of a file name.

    Raises:
        DataError: no reader knows the ending.
    """
    name = path.name.lower()
    for ending, reader in READERS.items():
        if name.endswith(ending):
            return reader
    raise DataError(
        f"{path}: unknown kind of data file; expected one of {', '.join(READERS)}, or a folder written by "
        f"datasets' save_to_disk"
    )


def missing_path(path: Path) -> DataError:
    """The error for a path that does not exist, naming the nearest ones that do."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    if parent != path.parent:
        return DataError(
            f"{path}: no such file; the folder {path.parent} does not exist either, only {parent}"
        )
    try:
        names = sorted(entry.name for entry in parent.iterdir())
    except OSError as error:
        return unreadable(path, error)
    # Endings are common to most data files, so that only what stands before them tells names apart.
    stems = {name: _stem(name) for name in names}
    near = difflib.get_close_matches(_stem(path.name), stems.values(), n=3, cutoff=0.6)
    close = sorted((name for name in names if stems[name] in near), key=lambda name: near.index(stems[name]))
    if close:
        return DataError(f"{path}: no such file; did you mean {' or '.join(close[:3])} in the same folder?")
    readable = [name for name in names if name.lower().endswith(tuple(READERS))]
    listed = f"data files there: {', '.join(readable[:5])}" if readable else "the folder holds no data files"
    return DataError(f"{path}: no such file; {listed}")


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file or folder that the system does not let us read."""
    return DataError(f"{path}: cannot be read: {error.strerror or error}; check the path and its rights")


def _stem(name: str) -> str:
    """A file name without the endings of data files, in lower case."""
    name = name.lower()
    ending = max((ending for ending in READERS if name.endswith(ending)), key=len, default="")
    return name.removesuffix(ending)


def read_jsonl(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file, gzipped or not; blank lines are skipped.

    Lines end at the line feed only: a Unicode line separator inside a string belongs to the string.

    Raises:
        DataError: the file is not readable, or a line is not UTF-8, not JSON or not an object.
    """
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield _parse_line(path, number, line)


def read_json(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a JSON file: an array of objects, an object that holds one under `data`, or one row.

    A file of JSON lines that is merely called `.json` is read as such.

    Raises:
        DataError: the file is not readable, not UTF-8, not JSON, or of another shape.
    """
    raw = b"".join(_lines(path))
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, raw[: error.start].count(b"\n") + 1) from error
    except (ValueError, RecursionError) as error:
        if raw.lstrip().startswith(b"{") and "Extra data" in str(error):
            yield from read_jsonl(path, columns)
            return
        where = f" at line {error.lineno}, column {error.colno}" if _has_place(error) else ""
        raise DataError(f"{path}: broken JSON{where}: {_reason(error)}; mend or remove it") from error
    rows = cast(dict[str, Any], content).get("data") if isinstance(content, dict) else content
    if isinstance(content, dict) and any(isinstance(value, str) for value in content.values()):
        rows = [content]  # one row on its own
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: expected an array of objects, or an object with an array under 'data'; found "
            f"{describe_json_type(content)}"
        )
    for number, row in enumerate(cast(list[Any], rows)):
        if not isinstance(row, dict):
            raise DataError(f"{path}: element {number} is {describe_json_type(row)}, expected an object")
        yield cast(Row, row)


def read_csv(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a table whose first line names the columns; every value is a string.

    Values with commas or line breaks stand in double quotes, a quote inside them doubled. Of a file named `.tsv`
    tabs separate the columns.

    Raises:
        DataError: the file is not readable, not UTF-8, or not such a table.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    separator = "\t" if ".tsv" in path.name.lower() else ","
    lines = _decoded(path, _lines(path))
    table = csv.reader(lines, delimiter=separator, strict=True)
    try:
        names = next(table, [])
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated or not all(name.strip() for name in names):
            problem = f"names {', '.join(repeated)} twice" if repeated else "has a column without a name"
            raise DataError(f"{path}: the first line {problem}; it should name every column once")
        for cells in table:
            if not cells:
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}: the row that ends at line {table.line_num} has {len(cells)} values, but the first "
                    f"line names {len(names)} columns; quote values that hold {separator!r}"
                )
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}: broken CSV at line {table.line_num}: {error}; quote values, and double quotes inside them"
        ) from error


def _decoded(path: Path, lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number) from error


def read_parquet(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet file, batch by batch; of the columns in `columns` only, where any is there.

    Raises:
        DataError: the file is not a readable Parquet file.
    """
    with _parquet(path) as file:
        names = file.schema_arrow.names
        wanted = [name for name in names if name in columns] or names
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            yield from batch.to_pylist()


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns of a Parquet file."""
    with _parquet(path) as file:
        return tuple(file.schema_arrow.names)


def row_count(path: Path) -> int | None:
    """Rows of a file where they can be counted at little cost: lines of JSON lines, the footer of a Parquet file.

    Blank lines are counted too: the number is for a progress bar.
    """
    reader = reader_for(path)
    if reader is read_parquet:
        with _parquet(path) as file:
            return int(file.metadata.num_rows)
    return sum(1 for _ in _lines(path)) if reader is read_jsonl else None


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file: {_reason(error)}; write the file anew"
        ) from error


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_csv,
    ".tsv.gz": read_csv,
    ".parquet": read_parquet,
}
"""File ending -> reader."""


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file with their line feeds, unzipped where the file is gzip, without a byte-order mark."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                yield line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        if number == 0 and isinstance(error, gzip.BadGzipFile):
            raise DataError(
                f"{path}: not compressed by gzip, although it is named so; rename the file"
            ) from error
        raise DataError(
            f"{path}: broken gzip after line {number}: {_reason(error)}; copy or download the file again"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _open(path: Path) -> IO[bytes]:
    """Open a file for reading; gzip by its first bytes or by its name."""
    file = path.open("rb")
    zipped = file.read(2) == _GZIP_MAGIC or path.name.lower().endswith(".gz")
    if not zipped:
        file.seek(0)
        return file
    file.close()
    return cast(IO[bytes], gzip.open(path, "rb"))


def _parse_line(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number) from error
    except (ValueError, RecursionError) as error:
        column = f", column {error.colno}" if _has_place(error) else ""
        shown = line[:_SHOWN].decode("utf-8", errors="replace").strip()
        raise DataError(
            f"{path}: broken JSON at line {number}{column}: {_reason(error)}; the line begins {shown!r}; "
            f"mend or remove it"
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{path}: line {number} holds {describe_json_type(row)}, expected an object with the columns"
        )
    return cast(Row, row)


def _has_place(error: Exception) -> TypeGuard[json.JSONDecodeError]:
    """Whether an error of the JSON parser says where it is; not so for nesting and huge numbers."""
    return isinstance(error, json.JSONDecodeError)


def _not_utf8(path: Path, line: int) -> DataError:
    return DataError(f"{path}: line {line} is not UTF-8; convert the file, for instance with iconv -t UTF-8")


def _reason(error: BaseException) -> str:
    lines = str(getattr(error, "msg", "") or error).splitlines()
    return lines[0] if lines else type(error).__name__
