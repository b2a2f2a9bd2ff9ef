"""Readers of local files, and what they say about broken ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distal.data.loading import open_rows
from distal.errors import ConfigError, DataError

ROWS = [
    {"prompt": "a\u2028b", "completion": "naïve\u0085 é", "label": True},
    {"prompt": "", "completion": "x", "label": False},
]


def read(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in open_rows(path).read(())]


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    # Unicode line separators stay as they are in the file: only the line feed ends a row.
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode() + b"\n"


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    contents = {
        "a.jsonl": as_lines(ROWS),
        "b.jsonl.gz": gzip.compress(as_lines(ROWS)),
        "gzip-in-disguise.jsonl": gzip.compress(as_lines(ROWS)),
        "bom.jsonl": b"\xef\xbb\xbf" + as_lines(ROWS),
        "windows.jsonl": as_lines(ROWS).replace(b"\n", b"\r\n"),
        "blank-lines.jsonl": as_lines(ROWS).replace(b"\n", b"\n\n  \n"),
        "array.json": json.dumps(ROWS).encode(),
        "data.json": json.dumps({"version": 1, "data": ROWS}).encode(),
        "named-version.json": json.dumps({"version": "1.1", "data": ROWS}).encode(),
        "lines-in-disguise.json": as_lines(ROWS),
        "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert read(path) == ROWS, name
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == ROWS


def test_the_last_ending_says_what_separates_columns(tmp_path: Path) -> None:
    for name, mark in (
        ("a.tsv.csv", ","),
        ("b.csv.tsv", "\t"),
        ("c.tsv.gz", "\t"),
        ("d.tsv-export.csv", ","),
    ):
        content = f"prompt{mark}completion\np{mark}c\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        assert read(tmp_path / name) == [{"prompt": "p", "completion": "c"}], name


def test_a_json_object_may_be_a_row_with_a_column_called_data(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c", "label": True, "data": [1, 2]}
    (tmp_path / "row.json").write_text(json.dumps(row))
    assert read(tmp_path / "row.json") == [row]


def test_parquet_decodes_only_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": "p", "image": b"0" * 100}]), path)
    raw = open_rows(path)
    assert raw.columns == ("prompt", "image")
    assert list(raw.read({"prompt", "label"})) == [{"prompt": "p"}]


def test_missing_file_names_the_nearest_ones(tmp_path: Path) -> None:
    (tmp_path / "helpful-base.jsonl").write_bytes(as_lines(ROWS))
    assert "did you mean helpful-base.jsonl" in message(tmp_path / "helpfull-base.jsonl")
    assert "data files there: helpful-base.jsonl" in message(tmp_path / "zzz.parquet")
    assert "no-folder does not exist either" in message(tmp_path / "no-folder" / "x.jsonl")


def test_a_shared_ending_makes_no_two_names_alike(tmp_path: Path) -> None:
    for name in ("pairs.jsonl", "notes.jsonl.gz"):
        (tmp_path / name).write_bytes(b"{}")
    assert "did you mean" not in message(tmp_path / "train.jsonl")
    assert "did you mean notes.jsonl.gz in" in message(tmp_path / "note.jsonl")


def test_the_name_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="the name of the data is empty"):
        open_rows("")


def test_a_path_that_the_system_refuses_is_an_error_of_the_data(tmp_path: Path) -> None:
    # Newer versions of Python take a name that is too long for one that does not exist.
    with pytest.raises(DataError, match=r"cannot be read: File name too long|no such file"):
        open_rows(tmp_path / ("x" * 300 + ".jsonl"))


def test_rows_are_counted_where_that_is_cheap(tmp_path: Path) -> None:
    contents = {"a.jsonl": as_lines(ROWS), "b.jsonl.gz": gzip.compress(as_lines(ROWS)), "c.json": b"[{}]"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    counts = [open_rows(path).count() for path in sorted(tmp_path.iterdir())]
    assert counts == [2, 2, None, 2]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            as_lines(ROWS) + b'{"prompt": "x", "lab',
            ["broken JSON at line 3", '{"prompt": "x", "lab', "mend or remove"],
        ),
        (as_lines(ROWS) + b"\n[1, 2]\n", ["line 4 holds array [1, 2]", "expected an object"]),
        (as_lines(ROWS) + b'{"prompt": "\xff"}\n', ["line 3 is not UTF-8", "iconv"]),
        (b'{"a": ' + b"[" * 100_000 + b"}", ["line 1 holds", "nested too deeply"]),
        (b'{"a": ' + b"1" * 5000 + b"}", ["broken JSON at line 1, column 7", "more than 4300 digits"]),
        ("{}".encode("utf-16"), ["is UTF-16 text, not UTF-8", "iconv -f UTF-16"]),
        (b"", ["is empty"]),
    ],
)
def test_broken_lines(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    found = message(path)
    assert all(part in found for part in parts), found


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'[{"a": 1},\n {"a": }]', "broken JSON at line 2, column 8"),
        (b'[{"a": 1}, 5]', "element 1 is number 5, expected an object"),
        (b'{"rows": []}', "found object {'rows': []}"),
        (b'"text"', "found string 'text'"),
        (b'[\n{"a": "\xff"}]', "line 2 is not UTF-8"),
        (b'{"a": 1}\n{"a": ', "broken JSON at line 2"),
    ],
)
def test_broken_json(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    assert part in message(path)


def test_broken_gzip_says_how_far_it_could_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(as_lines(ROWS * 2000))
    truncated, plain = tmp_path / "truncated.jsonl.gz", tmp_path / "plain.jsonl.gz"
    truncated.write_bytes(whole[: len(whole) // 2])
    plain.write_bytes(as_lines(ROWS))
    flipped = tmp_path / "flipped.jsonl.gz"
    flipped.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])
    assert "broken gzip after line" in message(truncated)
    assert "not compressed by gzip, although it is named so" in message(plain)
    assert "broken gzip after line 4000" in message(flipped)


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    assert "not a readable Parquet file" in message(path)


def test_unknown_ending(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    path.write_bytes(b"x")
    assert "unknown kind of data file; expected one of .jsonl" in message(path)


def test_a_single_file_has_no_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines(ROWS))
    with pytest.raises(ConfigError, match="split='test' has no meaning for the single file"):
        open_rows(path, split="test")
