"""Readers of local files: one row after the other, with errors that name the file and the line."""

from __future__ import annotations

import csv
import difflib
import gzip
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from distal.data.broken import (
    HEAD,
    broken_json,
    disguise,
    first_line,
    not_an_object,
    not_utf8,
    nul_bytes,
    too_deep,
)
from distal.data.json_text import Parser, is_too_deep, row_at
from distal.data.places import PlacedRow
from distal.data.values import describe_json_type, listed, shown_name
from distal.errors import DataError

__all__ = [
    "READERS",
    "check_beginning",
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
_BATCH_ROWS = 1000
_UNPACK = {
    ".zst": "unpack it: zstd -d",
    ".zip": "unpack it",
    ".bz2": "unpack it: bunzip2",
    ".xz": "unpack it: unxz",
    ".arrow": "give the folder around it, as save_to_disk wrote it",
    ".xlsx": "export the rows as CSV",
    ".yaml": "write the rows as JSON lines",
    ".txt": "rename the file, if its rows are of one of these kinds",
}
"""What to do with files of a kind that is not read."""

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
    remedy = _UNPACK.get(path.suffix.lower(), "write the rows as one of these")
    raise DataError(
        f"{path}: unknown kind of data file; expected one of {', '.join(READERS)}, or a folder written by "
        f"datasets' save_to_disk; {remedy}"
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
    parse = Parser()
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield _parse_line(path, number, line, parse)


def read_json(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a JSON file: an array of objects, an object that holds one under `data`, or one row.

    A file of JSON lines that is merely called `.json` is read as such.

    Raises:
        DataError: the file is not readable, not UTF-8, not JSON, or of another shape.
    """
    raw, parse = b"".join(_lines(path)), Parser()
    try:
        content = parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise not_utf8(path, raw[: error.start].count(b"\n") + 1, error, raw) from error
    except (ValueError, RecursionError) as error:
        if raw.lstrip().startswith(b"{") and "Extra data" in str(error):
            yield from read_jsonl(path, columns)
            return
        raise broken_json(path, raw, error, None) from error
    rows = cast(dict[str, Any], content).get("data") if isinstance(content, dict) else content
    is_array = isinstance(rows, list) and all(isinstance(row, dict) for row in cast(list[Any], rows))
    if isinstance(content, dict) and not is_array and any(isinstance(v, str) for v in content.values()):
        rows = [content]  # one row on its own; beside an array of rows, strings say something of them all
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: expected an array of objects, or an object with an array under 'data'; found "
            f"{describe_json_type(content)}; write one of the two"
        )
    for number, row in enumerate(cast(list[Any], rows)):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: element {number} is {describe_json_type(row)}, expected an object; mend or remove it"
            )
        if is_too_deep(row):
            raise too_deep(path, f"element {number}")
        yield row_at(cast(dict[str, Any], row), None, repeats=parse.repeats)


def read_csv(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a table whose first line names the columns; every value is a string.

    Values with commas or line breaks stand in double quotes, a quote inside them doubled. Of a file named `.tsv`
    tabs separate the columns.

    Raises:
        DataError: the file is not readable, not UTF-8, or not such a table.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    separator = "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else ","
    table = csv.reader(_decoded(path, _lines(path)), delimiter=separator, strict=True)
    begun = 1
    try:
        names = next(table, [])
        _check_header(path, names, separator)
        begun = table.line_num + 1
        for cells in table:
            if cells and len(cells) != len(names):
                raise DataError(
                    f"{path}: the row at line {begun} has {len(cells)} values, but the first line names {len(names)} "
                    f"columns; quote values that hold {separator!r}, line breaks or quotes"
                )
            if cells:
                row = PlacedRow(zip(names, cells, strict=True))
                row.line = begun
                yield row
            begun = table.line_num + 1
    except csv.Error as error:
        reason, remedy = str(error), "quote values, and double quotes inside them"
        if "unexpected end of data" in reason:
            reason = "a quote that nothing closes"
        elif "new-line character" in reason:
            reason, remedy = "a carriage return that is no line break", "end lines with a line feed: mac2unix"
        raise DataError(
            f"{path}: broken CSV in the row at line {begun}: {reason} (line {table.line_num}); {remedy}"
        ) from error


def _check_header(path: Path, names: list[str], separator: str) -> None:
    """Refuse a first line that cannot be the names of columns."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    other = next((mark for mark in ";\t|," if mark in "".join(names) and mark != separator), None)
    if len(names) == 1 and other is not None:
        known = "tab" if other == "\t" else repr(other)
        remedy = "name it *.tsv" if other == "\t" else "write it with commas, or tabs and the name *.tsv"
        if other == ",":
            remedy = "name it *.csv"
        raise DataError(
            f"{path}: the first line is one column, {shown_name(names[0])}, and seems to be separated by {known}; "
            f"{remedy}"
        )
    if repeated or not all(name.strip() for name in names):
        problem = f"names {listed(repeated)} twice" if repeated else "has a column without a name"
        raise DataError(f"{path}: the first line {problem}; it should name every column once")


def _decoded(path: Path, lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(path, number, error, line) from error
        if "\0" in text:
            raise nul_bytes(path, number)
        yield text


def read_parquet(path: Path, columns: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet file, batch by batch; of the columns in `columns` only, where any is there.

    Raises:
        DataError: the file is not a readable Parquet file.
    """
    with _parquet(path) as file:
        names: list[str] = file.schema_arrow.names
        wanted = [name for name in names if name in columns] or names
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            yield from batch.to_pylist()


def parquet_columns(path: Path) -> tuple[str, ...]:
    """Names of the columns of a Parquet file.

    Raises:
        DataError: it is no such file, or has two columns of one name.
    """
    with _parquet(path) as file:
        names: tuple[str, ...] = tuple(file.schema_arrow.names)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: two columns are named {listed(repeated)}; rename one of them")
    return names


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
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file: {first_line(error)}; write or download the file again"
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
            f"{path}: broken gzip after line {number}: {first_line(error)}; copy or download the file again"
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


def _parse_line(path: Path, number: int, line: bytes, parse: Parser) -> Row:
    try:
        row = parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise not_utf8(path, number, error, line) from error
    except (ValueError, RecursionError) as error:
        raise broken_json(path, line, error, number) from error
    if is_too_deep(row, line):
        raise too_deep(path, f"line {number}")
    if not isinstance(row, dict):
        raise not_an_object(path, number, row)
    return row_at(cast(dict[str, Any], row), number, repeats=parse.repeats)


def check_beginning(path: Path, reader: Reader) -> None:
    """Refuse a file that begins like another kind than its name says.

    Raises:
        DataError: it does, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise unreadable(path, error) from error
    problem = disguise(path, head, (b"PAR1",) if reader is read_parquet else (_GZIP_MAGIC,))
    if problem is not None:
        raise problem
    if reader is read_parquet and not head.startswith(b"PAR1"):
        raise DataError(
            f"{path}: not a readable Parquet file: it begins with {head[:12]!r}, expected b'PAR1'; name it after "
            f"what it holds, or write it again"
        )
