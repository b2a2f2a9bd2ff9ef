"""Where rows come from: files, folders, the hub, data sets in memory. One way to read them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from distal.data.broken import first_line
from distal.data.files import (
    READERS,
    Row,
    check_beginning,
    missing_path,
    parquet_columns,
    read_csv,
    read_parquet,
    reader_for,
    row_count,
    unreadable,
)
from distal.data.hub import is_hub_id, load_folder, load_hub, source_name
from distal.data.identity import Content, content_of_dataset, content_of_file
from distal.data.values import describe_json_type
from distal.errors import ConfigError, DataError

if TYPE_CHECKING:
    import datasets

__all__ = ["DataLike", "RawRows", "open_rows"]

DataLike: TypeAlias = (
    "str | PathLike[str] | datasets.Dataset | datasets.DatasetDict | Sequence[Mapping[str, Any]]"
)
"""Anything that holds rows: a path, a hub id, a data set, or a list of dictionaries."""

_BATCH_ROWS = 1000
_ARRAY_LEVELS = 50
"""Levels of a row in memory inside which arrays become lists; no table has as many."""

_AWAY = " (--split null or --eval-split null, where a configuration file sets it)"


@dataclass(frozen=True, slots=True)
class RawRows:
    """Rows as the user wrote them.

    Attributes:
        name: for messages: the path, the hub id, or what the caller calls the rows.
        read: yields the rows; of a table only the named columns are decoded.
        columns: names of the columns of a table; None where every row names its own.
        count: number of rows, where that is known at once or by counting lines; else None. For progress bars only.
        only_strings: every value is a string, as in CSV.
        content: tells the rows from any others; None for rows in memory.
    """

    name: str
    read: Callable[[Collection[str]], Iterator[Row]]
    columns: tuple[str, ...] | None = None
    count: Callable[[], int | None] = lambda: None
    only_strings: bool = False
    content: Content | None = None


def open_rows(data: DataLike, *, split: str | None = None, name: str = "train") -> RawRows:
    """Find out what `data` is and how to read it; no row is read yet.

    Args:
        data: path of a .jsonl, .jsonl.gz, .json, .csv, .tsv or .parquet file, of a folder written by `save_to_disk`; a
            hub id; a `datasets.Dataset` or `DatasetDict`; a list of dictionaries. A path that exists is never
            a hub id. `ID:NAME` is a configuration of a data set, `ID:FOLDER/` a folder of it.
        split: which split of a hub data set, a `DatasetDict` or a saved one; "train" where there are several.
        name: what to call rows that have no path.

    Raises:
        DataError: nothing is there, or it is of no known kind.
        ConfigError: a split is asked for where there are none.
    """
    if isinstance(data, (str, PathLike)):
        return _open_path(data, split)
    if _is_dataset(data):
        return _from_dataset(_choose_split(data, split, name), name)
    if split is not None:
        raise ConfigError(
            f"split={split!r} has no meaning for rows given as {type(data).__name__}; leave it out"
        )
    if isinstance(data, Sequence):
        return RawRows(name, lambda columns: _read_list(cast(Sequence[Any], data), name), count=data.__len__)
    raise DataError(
        f"{name}: cannot read rows from {type(data).__name__}; give a path, a hub id, a datasets.Dataset or "
        f"a list of dictionaries"
    )


def _open_path(data: str | PathLike[str], split: str | None) -> RawRows:
    if not str(data):
        raise DataError(
            "the name of the data is empty; give a file, a folder written by save_to_disk, or a hub id"
        )
    source = source_name(str(data))
    path = Path(source.base).expanduser()
    try:
        exists, is_folder = path.exists(), path.is_dir()
        is_file = path.is_file()
        empty = is_file and path.stat().st_size == 0
    except OSError as error:
        raise unreadable(path, error) from error
    if is_folder:
        loaded = load_folder(path, source)
        return _from_dataset(
            _choose_split(loaded, split, str(data)), str(path if source.base == data else data)
        )
    if not exists:
        is_file_name = source.base.lower().endswith(tuple(READERS))
        if isinstance(data, str) and is_hub_id(source.base) and not is_file_name:
            return _from_dataset(_choose_split(load_hub(source, split), None, data), data)
        raise missing_path(path)
    if source.arguments():
        raise ConfigError(f"{data}: what stands behind the colon has no meaning for the single file {path}")
    reader = reader_for(path)
    if split is not None:
        raise ConfigError(f"split={split!r} has no meaning for the single file {path}; leave it out{_AWAY}")
    if not is_file:
        raise DataError(
            f"{path}: is no regular file (a pipe or a device, say); write the rows to a file first"
        )
    if empty:
        raise DataError(f"{path}: the file is empty; it should hold at least one row")
    check_beginning(path, reader)
    names = parquet_columns(path) if reader is read_parquet else None
    return RawRows(
        str(path),
        lambda columns: reader(path, columns),
        names,
        lambda: row_count(path),
        only_strings=reader is read_csv,
        content=content_of_file(path),
    )


def _read_list(rows: Sequence[Any], name: str) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{name}: row {number} is {describe_json_type(row)}, expected a dictionary of columns"
            )
        yield cast(Row, _as_json(row))


def _as_json(value: Any, levels: int = _ARRAY_LEVELS) -> Any:
    """A value with lists for the arrays, and null for the missing values, that rows from pandas and NumPy hold."""
    if isinstance(value, np.ndarray):
        return _as_json(cast(Any, value).tolist(), levels)
    if isinstance(value, np.generic):
        return value.item()
    if type(value).__name__ == "NAType":
        return None
    if levels and isinstance(value, Mapping):
        return {key: _as_json(inner, levels - 1) for key, inner in cast(Mapping[Any, Any], value).items()}
    if levels and isinstance(value, (list, tuple)):
        return [_as_json(inner, levels - 1) for inner in cast("list[Any] | tuple[Any, ...]", value)]
    return value


def _is_dataset(data: object) -> bool:
    """Whether `data` is of a class of the `datasets` library, without importing it for lists."""
    return any(cls.__module__.split(".")[0] == "datasets" for cls in type(data).__mro__)


def _choose_split(data: object, split: str | None, name: str) -> datasets.Dataset:
    import datasets

    if isinstance(data, datasets.Dataset):
        if split is not None:
            raise ConfigError(
                f"split={split!r} has no meaning for {name}, which is a single data set; leave it out{_AWAY}"
            )
        return data
    if not isinstance(data, datasets.DatasetDict):
        raise DataError(
            f"{name}: cannot read rows from {type(data).__name__}; streaming data sets have no length, load "
            f"a datasets.Dataset"
        )
    splits = [str(key) for key in data]
    wanted = split or ("train" if "train" in splits or len(splits) != 1 else splits[0])
    if wanted not in splits:
        raise DataError(f"{name}: no split {wanted!r}; choose one of {', '.join(splits)} with split=...")
    return data[wanted]


def _from_dataset(dataset: datasets.Dataset, name: str) -> RawRows:
    def read(columns: Collection[str]) -> Iterator[Row]:
        wanted = [column for column in dataset.column_names if column in columns] or dataset.column_names
        table = dataset.select_columns(wanted).with_format(None)
        for start in range(0, len(table), _BATCH_ROWS):
            try:
                batch: dict[str, list[Any]] = table[start : start + _BATCH_ROWS]
            except Exception as error:  # files behind it may be broken in many ways
                raise DataError(
                    f"{name}: rows {start} to {start + _BATCH_ROWS - 1} (counted from 0) cannot be read: "
                    f"{first_line(error)}; save or download the data again"
                ) from error
            for values in zip(*(batch[column] for column in wanted), strict=True):
                yield dict(zip(wanted, values, strict=True))

    return RawRows(
        name, read, tuple(dataset.column_names), dataset.__len__, content=content_of_dataset(dataset)
    )
