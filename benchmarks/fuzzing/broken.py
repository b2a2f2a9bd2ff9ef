"""Small valid files of every format, and what breaks them: for `fuzz_readers.py`."""

from __future__ import annotations

import copy
import csv
import datetime
import gzip
import io
import json
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import numpy as np

from distal.data import FORMATS, GradeOptions, ReadOptions
from distal.data.grades import GRADE_METHODS
from tests.data.test_formats import CASES, flat

__all__ = ["Case", "make_case"]

KINDS = ("jsonl", "jsonl.gz", "json", "json.gz", "csv", "tsv", "parquet", "memory")

# fmt: off
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 1.0, 0.5, 10**18, 10**400, -0.0, float("nan"), float("inf"), 1e308,
    "", " ", "true", "yes", "0", "1", "1_0", "N/A", "tie", "nan", "[]", "{", "null", "[bold]x[/]", "{0}", "%s",
    "\ud800", "\u2028", "\u202e", "\0", "\x1b[2J", "\ufeff", "é", "😀", "x" * 300, "<script>", "../../x", "\n",
    "user", "assistant", "\n\nHuman: a\n\nAssistant:", "\n\nAssistant:", "TL;DR:", "<|endoftext|>",
)
OBJECTS: tuple[Any, ...] = (
    b"bytes", Decimal("1.5"), Decimal("sNaN"), datetime.date(2026, 1, 1), datetime.timedelta(1), (1, 2), {1, 2},
    np.array([1, 2]), np.array(["a", "b"]), np.array([]), np.float32(1), np.int64(1), np.bool_(True), 1j, object,
)
"""What rows in memory may hold besides, from tables or by mistake."""

INSERTED = (
    b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"'", b"\\", b"\\u", b"\\ud800", b",", b"\n",
    b"\r", b"{", b"}", b"[", b"]", b"[" * 1500, b'{"a":' * 600, b"null", b"NaN", b"9" * 4400, b"1e999", b"-", b":",
    b"\x1f\x8b", b"PAR1", b"PK\x03\x04", b'{"prompt": 1, "prompt": 2}', b"/*", b"\x85", b"\xe2\x80\xa8", b"\t",
)
# fmt: on


@dataclass(frozen=True)
class Case:
    """One broken file.

    Attributes:
        format: of the rows before they were broken.
        kind: of file.
        content: bytes of the file, or rows in memory.
        reading: how it is read.
        changes: what was done to it.
    """

    format: str
    kind: str
    content: Any
    reading: ReadOptions
    changes: tuple[str, ...]


def valid_rows(draw: random.Random) -> tuple[str, list[Any]]:
    """A format, and a few good rows of it."""
    name = draw.choice(sorted(FORMATS))
    gathered = name.startswith("oasst-messages")
    source = name.replace("oasst-messages", "oasst") if gathered else name
    rows = [row for form, row, _ in CASES if form == source]
    if gathered:
        trees = [draw.choice(rows) for _ in range(draw.randint(1, 2))]
        rows = [
            {**row, "message_tree_id": f"t{i}"}
            for i, tree in enumerate(trees)
            for row in flat(tree["prompt"])
        ]
        return name, copy.deepcopy(rows)
    return name, [copy.deepcopy(draw.choice(rows)) for _ in range(draw.randint(1, 5))]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a value, as the keys that lead there; not those inside very deep ones."""
    found = [path] if path else []
    if len(path) > 20:
        return found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def any_value(draw: random.Random, level: int = 0) -> Any:
    """A value of any shape."""
    shape = draw.randrange(10)
    if shape < 7 or level > 2:
        return draw.choice(SCALARS)
    if shape == 7:
        return [any_value(draw, level + 1) for _ in range(draw.randrange(3))]
    if shape == 8:
        keys = ("role", "content", "from", "value", "text", "replies", "Rating", "rank", "completion", "x")
        return {draw.choice(keys): any_value(draw, level + 1) for _ in range(draw.randrange(4))}
    value: Any = draw.choice(SCALARS)
    for _ in range(draw.choice((5, 40, 300, 700))):
        value = [value] if draw.random() < 0.5 else {"x": value}
    return value


def copied(value: Any) -> Any:
    """A copy of a value; null where it is too deep to be copied."""
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return None


def break_rows(draw: random.Random, rows: list[Any], objects: bool) -> str:
    """Change one place of the rows, with objects that no file holds where that is allowed; what was done."""
    where = draw.choice(places(rows))
    holder: Any = rows
    for key in where[:-1]:
        holder = holder[key]
    key = where[-1]
    change = draw.choice(("value", "value", "drop", "key", "splice", "repeat", "swap"))
    if change == "value":
        holder[key] = draw.choice(OBJECTS) if objects and draw.random() < 0.3 else any_value(draw)
    elif change == "drop":
        del holder[key]
    elif change == "key" and isinstance(holder, dict):
        holder[draw.choice((str(key).upper(), f" {key}", "", "\ud800", "x" * 200, "prompt"))] = holder.pop(
            key
        )
    elif change == "splice":
        holder[key] = copied(draw.choice(valid_rows(draw)[1]))
    elif change == "repeat" and isinstance(holder, list):
        holder.insert(key, copied(holder[key]))
    else:
        other = draw.choice(places(rows))
        value: Any = rows
        for step in other:
            value = value[step]
        holder[key] = copied(value)
    return f"{change} at {'.'.join(map(str, where))}"[:80]


def break_bytes(draw: random.Random, content: bytes) -> tuple[bytes, str]:
    """Change a few bytes; what was done."""
    if not content:
        return content, "nothing"
    a, b = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    change = draw.choice(
        ("flip", "flip", "cut off", "cut out", "repeat", "insert", "insert", "shuffle", "no start")
    )
    made = {
        "flip": lambda: (
            content[:a] + bytes(x ^ (1 << draw.randrange(8)) for x in content[a : a + 1]) + content[a + 1 :]
        ),
        "cut off": lambda: content[:a],
        "cut out": lambda: content[:a] + content[min(b, a + draw.choice((1, 8, 10**6))) :],
        "repeat": lambda: content[:b] + content[a:],
        "insert": lambda: content[:a] + draw.choice(INSERTED) + content[a:],
        "shuffle": lambda: content[b:] + content[a:b] + content[:a],
        "no start": lambda: content[draw.choice((1, 2, 4, 16)) :],
    }[change]()
    return made, f"{change} at {a}"


def written(rows: list[Any], kind: str) -> bytes:
    """Rows as a file of a kind; CSV and Parquet hold what is left of them as text."""
    if kind.startswith("jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif kind.startswith("json"):
        text = json.dumps(rows, ensure_ascii=False)
    elif kind in ("csv", "tsv"):
        names = list(dict.fromkeys(str(key) for row in rows if isinstance(row, dict) for key in row))
        out = io.StringIO(newline="")
        table = csv.writer(out, delimiter="\t" if kind == "tsv" else ",")
        table.writerow(names)
        for row in rows:
            table.writerow([row.get(name, "") if isinstance(row, dict) else "" for name in names])
        text = out.getvalue()
    else:
        return parquet(rows)
    content = text.encode("utf-8", "surrogatepass")
    return gzip.compress(content, mtime=0) if kind.endswith(".gz") else content


def parquet(rows: list[Any]) -> bytes:
    """Rows as a table; columns of several types as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(str(key) for row in rows if isinstance(row, dict) for key in row))
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) if isinstance(row, dict) else None for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError, TypeError, ValueError):
            columns[name] = pa.array([json.dumps(value)[:100] for value in values])
    sink = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), sink, compression="none")
    except (pa.ArrowException, UnicodeEncodeError):
        return b"PAR1"
    return sink.getvalue()


def make_case(draw: random.Random) -> Case:
    """A broken file, the same for the same numbers."""
    name, rows = valid_rows(draw)
    kind = draw.choice(KINDS)
    changes: list[str] = []
    for _ in range(draw.randrange(1 if kind != "memory" else 2, 4) - draw.randrange(2)):
        if rows and places(rows):
            changes.append(break_rows(draw, rows, kind == "memory"))
    content: Any = rows
    if kind != "memory":
        try:
            content = written(rows, kind)
        except (RecursionError, UnicodeEncodeError):  # of our own making
            content = b"{"
        for _ in range(draw.choice((0, 0, 1, 2)) if changes else 1):
            content, change = break_bytes(draw, content)
            changes.append(change)
    columns = {"prompt": draw.choice(sorted(FORMATS[name].columns))} if draw.random() < 0.05 else {}
    return Case(name, kind, content, reading(draw, name, columns), tuple(changes))


def reading(draw: random.Random, name: str, columns: dict[str, str]) -> ReadOptions:
    """How a file of a format may be read."""
    grades = None
    if FORMATS[name].kind == "graded" and draw.random() < 0.7:
        grades = GradeOptions(method=cast(Any, draw.choice(GRADE_METHODS)), weights=draw.random() < 0.5)
    named = draw.random() < 0.6 or grades is not None
    return ReadOptions(
        format=name if named else None, columns=columns, chat=draw.random() < 0.3, grades=grades
    )
