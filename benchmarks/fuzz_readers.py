"""Broken files by the thousand: the readers may refuse them or count their rows, and nothing else.

A case is a small valid file of one format and one kind (JSON lines, JSON, CSV, with or without gzip, Parquet, rows in
memory), changed in one to four places: values exchanged for others of another type, keys dropped, repeated or renamed,
values nested hundreds of levels deep, rows of other formats spliced in; then bytes flipped, cut out, repeated, or
inserted, and files cut off. Each is opened, checked and, where something is left, converted, as `distal data check` and
`distal data convert` do. What must hold: no exception but Distal's own; every message short, printable as UTF-8, and
with the name of the file; every preference kept or counted; what was converted is read back whole; no case takes
seconds.

    python benchmarks/fuzz_readers.py --cases 20000 --seed 0     # minutes on one core; results/fuzz_readers.json
    python benchmarks/fuzz_readers.py --only 1234 --seed 0       # one case again, with its traceback
"""

from __future__ import annotations

import argparse
import copy
import csv
import datetime
import gzip
import io
import json
import platform
import random
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console

from distal.data import FORMATS, GradeOptions, PreferenceSource, ReadOptions, open_preferences
from distal.data.checking import check_data
from distal.data.conversion import Counted, convert
from distal.data.grades import GRADE_METHODS
from distal.data.reasons import DROPPED
from distal.errors import DataError, DistalError
from distal.report.data_terminal import check_view
from tests.data.test_formats import CASES, flat

RESULTS = Path(__file__).parent / "results" / "fuzz_readers.json"
KINDS = ("jsonl", "jsonl.gz", "json", "json.gz", "csv", "tsv", "parquet", "memory")
LONGEST_MESSAGE = 2000
SLOW = 5.0
"""Seconds after which a case counts as hanging; a case takes milliseconds, and the machine may have others to serve."""

SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 1.0, 0.5, 10**18, 10**400, -0.0, float("nan"), float("inf"), 1e308),
    *(
        "",
        " ",
        "true",
        "yes",
        "0",
        "1",
        "1_0",
        "N/A",
        "tie",
        "nan",
        "[]",
        "{",
        "null",
        "[bold]x[/]",
        "{0}",
        "%s",
    ),
    *(
        "\ud800",
        "\u2028",
        "\u202e",
        "\0",
        "\x1b[2J",
        "\ufeff",
        "é",
        "😀",
        "x" * 300,
        "<script>",
        "../../x",
        "\n",
    ),
    *("user", "assistant", "\n\nHuman: a\n\nAssistant:", "\n\nAssistant:", "TL;DR:", "<|endoftext|>"),
)
OBJECTS: tuple[Any, ...] = (
    *(
        b"bytes",
        Decimal("1.5"),
        Decimal("sNaN"),
        datetime.date(2026, 1, 1),
        datetime.timedelta(1),
        (1, 2),
        {1, 2},
    ),
    *(
        np.array([1, 2]),
        np.array(["a", "b"]),
        np.array([]),
        np.float32(1),
        np.int64(1),
        np.bool_(True),
        1j,
        object,
    ),
)
"""What rows in memory may hold besides, from tables or by mistake."""

INSERTED = (
    *(
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b'"',
        b"'",
        b"\\",
        b"\\u",
        b"\\ud800",
        b",",
        b"\n",
    ),
    *(
        b"\r",
        b"{",
        b"}",
        b"[",
        b"]",
        b"[" * 1500,
        b'{"a":' * 600,
        b"null",
        b"NaN",
        b"9" * 4400,
        b"1e999",
        b"-",
        b":",
    ),
    *(
        b"\x1f\x8b",
        b"PAR1",
        b"PK\x03\x04",
        b'{"prompt": 1, "prompt": 2}',
        b"/*",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\t",
    ),
)


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


@dataclass
class Outcomes:
    """What became of many cases."""

    by_outcome: Counter[str] = field(default_factory=Counter[str])
    by_format: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_kind: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    slowest: float = 0.0


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


class Fault(Exception):
    """Something that must not be."""


def require(holds: bool, otherwise: str) -> None:
    """Raise `Fault` where something does not hold."""
    if not holds:
        raise Fault(otherwise)


def run_case(case: Case, folder: Path) -> str:
    """The outcome of a case: a verdict, or the kind of refusal; whatever must not happen is raised."""
    path = folder / f"case.{case.kind}"
    data: Any = case.content
    name = "case"
    if case.kind != "memory":
        path.write_bytes(case.content)
        data, name = path, path.name
    try:
        source = open_preferences(data, case.reading, name="case")
        check = check_data(source)
        text = json.dumps(check.to_dict(), allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
        report = check.report
        left_out = sum(count.count for count in report.dropped.values())
        require(report.n_dropped == left_out, "a preference is not accounted for")
        require(set(report.dropped) <= set(DROPPED), "an unknown reason")
        for count in report.dropped.values():
            require(0 < len(count.example) <= LONGEST_MESSAGE, f"example of {len(count.example)} characters")
        console = Console(file=io.StringIO(), width=200, color_system=None)
        console.print(check_view(check))
        shown = cast(io.StringIO, console.file).getvalue()
        require(shown.replace("\n", "").isprintable(), "the terminal gets what it would obey")
        if report.n_kept:
            convert(source, folder / "converted.jsonl", overwrite=True)
            convert_to_table(source, folder / "converted.parquet")
            again = Counted(open_preferences(folder / "converted.jsonl"), "error")
            require(sum(1 for _ in again) == report.n_kept, "not read back whole")
    except DistalError as error:
        message = str(error)
        message.encode("utf-8")
        require(len(message) <= LONGEST_MESSAGE, f"message of {len(message)} characters")
        require(name in message or not isinstance(error, DataError), f"no file in: {message}")
        return type(error).__name__
    return check.verdict


def convert_to_table(source: PreferenceSource, path: Path) -> None:
    """Convert to Parquet, which need not hold everything that JSON lines can."""
    try:
        convert(source, path, overwrite=True)
    except DataError as error:
        require("write .jsonl instead" in str(error), str(error))


def run(cases: int, seed: int, progress: Callable[[int, Outcomes], None]) -> Outcomes:
    """Runs cases 0 to `cases` - 1 of a seed."""
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(cases):
            case = make_case(random.Random(f"{seed}/{number}"))
            began = time.perf_counter()
            try:
                outcome = run_case(case, Path(scratch))
                seconds = time.perf_counter() - began
                require(seconds < SLOW, f"{seconds:.1f} s")
            except Exception as error:  # whatever it is, it is a finding
                outcome = "failed"
                where = traceback.extract_tb(error.__traceback__)[-1]
                found = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"
                outcomes.failures.append(
                    {"case": number, "format": case.format, "kind": case.kind, "changes": case.changes}
                    | {"error": found[:300]}
                )
            outcomes.slowest = max(outcomes.slowest, time.perf_counter() - began)
            for counts in (outcomes.by_outcome, outcomes.by_format[case.format], outcomes.by_kind[case.kind]):
                counts[outcome] += 1
            progress(number + 1, outcomes)
    return outcomes


def limit_memory(gib: float) -> None:
    """Makes allocations beyond the limit fail, so that a file that asks for them is found and not served."""
    import resource

    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def report(outcomes: Outcomes, cases: int, seed: int, seconds: float) -> dict[str, Any]:
    """The record that is written."""
    import resource

    import pyarrow as pa

    names = sorted(outcomes.by_outcome)

    def table(counts: dict[str, Counter[str]], what: str) -> dict[str, Any]:
        rows = [[key, *(counts[key][name] for name in names)] for key in sorted(counts)]
        return {"header": [what, *names], "rows": rows}

    return {
        "environment": {"python": platform.python_version(), "pyarrow": pa.__version__},
        "cases": cases,
        "seed": seed,
        "seconds": round(seconds, 1),
        "slowest_case_seconds": round(outcomes.slowest, 3),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "failures": outcomes.failures,
        "tables": {
            "outcomes": {"header": names, "rows": [[outcomes.by_outcome[name] for name in names]]},
            "formats": table(outcomes.by_format, "format"),
            "kinds": table(outcomes.by_kind, "kind of file"),
        },
    }


def main() -> int:
    """Runs the cases with progress on standard error, writes the summary, and fails where a case did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one case to run again")
    parser.add_argument(
        "--memory-gib", type=float, default=8.0, help="address space that the process may take"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.only is not None:
        case = make_case(random.Random(f"{arguments.seed}/{arguments.only}"))
        print(case)
        with tempfile.TemporaryDirectory() as scratch:
            print(run_case(case, Path(scratch)))
        return 0
    limit_memory(arguments.memory_gib)
    began = time.perf_counter()

    def progress(done: int, outcomes: Outcomes) -> None:
        if done % 500 == 0 or done == arguments.cases:
            seconds = time.perf_counter() - began
            left = seconds / done * (arguments.cases - done)
            failed = outcomes.by_outcome["failed"]
            print(
                f"{done} of {arguments.cases}, {failed} failed, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    outcomes = run(arguments.cases, arguments.seed, progress)
    record = report(outcomes, arguments.cases, arguments.seed, time.perf_counter() - began)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for failure in outcomes.failures[:20]:
        print(failure)
    print(dict(outcomes.by_outcome))
    return 1 if outcomes.failures else 0


if __name__ == "__main__":
    sys.exit(main())
