"""Where rows come from: files, folders, the hub, data sets in memory. One way to read them all."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from distal.data.files import (
    READERS,
    Row,
    missing_path,
    parquet_columns,
    read_csv,
    read_parquet,
    reader_for,
    row_count,
    unreadable,
)
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

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_BATCH_ROWS = 1000


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
            a hub id.
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
    path = Path(data).expanduser()
    if not str(data):
        raise DataError(
            "the name of the data is empty; give a file, a folder written by save_to_disk, or a hub id"
        )
    try:
        exists, is_folder = path.exists(), path.is_dir()
        empty = exists and not is_folder and path.stat().st_size == 0
    except OSError as error:
        raise unreadable(path, error) from error
    if is_folder:
        return _from_dataset(_choose_split(_load_folder(path), split, str(path)), str(path))
    if not exists:
        if isinstance(data, str) and _HUB_ID.fullmatch(data) and not data.lower().endswith(tuple(READERS)):
            return _from_hub(data, split)
        raise missing_path(path)
    reader = reader_for(path)
    if split is not None:
        raise ConfigError(f"split={split!r} has no meaning for the single file {path}; leave it out")
    if empty:
        raise DataError(f"{path}: the file is empty; it should hold at least one row")
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
        yield cast(Row, row)


def _is_dataset(data: object) -> bool:
    """Whether `data` is of a class of the `datasets` library, without importing it for lists."""
    return any(cls.__module__.split(".")[0] == "datasets" for cls in type(data).__mro__)


def _load_folder(path: Path) -> object:
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises whatever its readers raise
        try:
            found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        except OSError as refusal:
            raise unreadable(path, refusal) from error
        raise DataError(
            f"{path}: not a folder written by datasets' save_to_disk ({_first_line(error)}); it holds "
            f"{found}; name one data file in it instead"
        ) from error


def _from_hub(name: str, split: str | None) -> RawRows:
    import datasets

    try:
        # Data sets with a loading script are refused by the library: no remote code is ever run.
        loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, hub, and reader errors of many classes
        raise DataError(
            f"{name}: no such local file, and the hub data set could not be loaded: {_first_line(error)}; "
            f"check the name, the split and the connection"
        ) from error
    return _from_dataset(_choose_split(loaded, None, name), name)


def _choose_split(data: object, split: str | None, name: str) -> datasets.Dataset:
    import datasets

    if isinstance(data, datasets.Dataset):
        if split is not None:
            raise ConfigError(
                f"split={split!r} has no meaning for {name}, which is a single data set; leave it out"
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
            batch: dict[str, list[Any]] = table[start : start + _BATCH_ROWS]
            for values in zip(*(batch[column] for column in wanted), strict=True):
                yield dict(zip(wanted, values, strict=True))

    return RawRows(
        name, read, tuple(dataset.column_names), dataset.__len__, content=content_of_dataset(dataset)
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
