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
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from benchmarks.fuzzing.broken import Case, make_case
from distal.data import PreferenceSource, open_preferences
from distal.data.checking import check_data
from distal.data.conversion import Counted, convert
from distal.data.reasons import DROPPED
from distal.errors import DataError, DistalError
from distal.report.data_terminal import check_view

RESULTS = Path(__file__).parent / "results" / "fuzz_readers.json"
LONGEST_MESSAGE = 2000
SLOW = 5.0
"""Seconds after which a case counts as hanging; a case takes milliseconds, and the machine may have others to serve."""


@dataclass
class Outcomes:
    """What became of many cases."""

    by_outcome: Counter[str] = field(default_factory=Counter[str])
    by_format: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_kind: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    slowest: float = 0.0


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
