"""Every preference file of a folder of real data: read, checked, converted, and read back by `datasets`.

For each file and each way to read it: rows by fate, as `distal data check` counts them, and whether the converted file
(JSON lines and Parquet) comes back as the same preferences through Distal and as the same rows through
`datasets.load_dataset`. Counts only, no timings: they are the same on every machine.

    python benchmarks/data_files.py --data ../shared/data       # a table, and benchmarks/results/data_files.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from distal.data import GradeOptions, PreferenceSource, ReadOptions, open_preferences
from distal.data.checking import DataCheck, check_data
from distal.data.conversion import convert
from distal.data.schemas import Preference

RESULTS = Path(__file__).parent / "results" / "data_files.json"
HEADER = (
    "file",
    "format",
    "rows",
    "offered",
    "kept",
    "left out",
    "noted",
    "liked longer",
    "verdict",
    "comes back",
)


@dataclass(frozen=True)
class Case:
    """One file and one way to read it."""

    file: str
    reading: ReadOptions = ReadOptions()


def by(**options: Any) -> ReadOptions:
    """Graded rows, made into preferences."""
    return ReadOptions(grades=GradeOptions(**options))


CASES = (
    Case("hh-rlhf/helpful-base.jsonl.gz"),
    Case("hh-rlhf/helpful-base.jsonl.gz", ReadOptions(chat=True)),
    Case("hh-rlhf/helpful-rejection-sampled.jsonl.gz"),
    Case("summarize/comparisons-train.jsonl.gz"),
    Case("summarize/comparisons-valid.jsonl.gz"),
    Case("tulu1-human/annotations.jsonl.gz"),
    Case("tulu1-human/annotations.jsonl.gz", ReadOptions(format="tulu1-human-acceptable")),
    Case("tulu1-human/unpaired.jsonl.gz"),
    Case("reviews/sentence-polarity.jsonl.gz"),
    Case("oasst/trees.jsonl.gz"),
    Case("oasst/trees.jsonl.gz", ReadOptions(format="oasst-votes")),
    Case("ultrafeedback/train.jsonl.gz"),
    Case("ultrafeedback/eval.jsonl.gz"),
    Case(
        "ultrafeedback/train.jsonl.gz",
        ReadOptions(format="ultrafeedback-binarized-graded", grades=GradeOptions()),
    ),
    Case("ultrafeedback/readme-record.json", by(threshold=10)),
    Case("arena-graded/graded.jsonl.gz"),
    Case("arena-graded/graded.jsonl.gz", by(threshold="prompt_median", ties="disliked")),
    Case("arena-graded/graded.jsonl.gz", by(method="best_worst")),
    Case("arena-graded/graded.jsonl.gz", by(method="best_random")),
    Case("arena-graded/graded.jsonl.gz", by(method="all_pairs", margin=2)),
    Case("formats/kto_en_demo.json"),
    Case("formats/dpo_en_demo.json"),
    Case("formats/stack_exchange_paired_tiny.json"),
    Case("formats/layout_ultrafeedback_binarized.json"),
    Case("formats/layout_tulu3_preference.json"),
)


def examine(case: Case, folder: Path, scratch: Path) -> tuple[DataCheck, bool]:
    """The check of one case, and whether its converted files come back."""
    source = open_preferences(folder / case.file, case.reading)
    return check_data(source), comes_back(source, scratch)


def comes_back(source: PreferenceSource, scratch: Path) -> bool:
    """Whether both kinds of converted file hold what was read, for us and for `datasets`."""
    wanted = list(preferences(source))
    for suffix, builder in (("jsonl", "json"), ("parquet", "parquet")):
        path = scratch / f"rows.{suffix}"
        convert(source, path, overwrite=True)
        loaded: Any = datasets.load_dataset(
            builder, data_files=str(path), split="train", cache_dir=str(scratch / "cache")
        )
        generic = ReadOptions(format="unpaired" if source.kind == "unpaired" else "paired")
        for data in (path, loaded):
            if list(preferences(open_preferences(data, generic))) != wanted:
                return False
    return True


def preferences(source: PreferenceSource) -> Iterator[tuple[Any, ...]]:
    """What counts of each usable preference."""
    for _, made in source:
        if isinstance(made, Preference):
            yield made.prompt, made.completions, made.desirable


def row_of(case: Case, check: DataCheck, back: bool) -> list[Any]:
    """One line of the table."""
    report = check.report

    def counts(fates: Any) -> str:
        return ", ".join(f"{fate} {count.count}" for fate, count in fates.items())

    labels = (
        ""
        if report.n_desirable is None
        else f" ({report.n_desirable} liked, {report.n_kept - report.n_desirable} disliked)"
    )
    grades = case.reading.grades
    how = "" if grades is None else f" {grades.method}"
    if grades is not None and grades.method == "threshold":
        how += f" {grades.threshold}"
    elif grades is not None and grades.margin:
        how += f" margin {grades.margin:g}"
    return [
        case.file,
        f"{check.format}{' chat' if case.reading.chat else ''}{how}",
        report.n_read,
        report.n_kept + report.n_dropped,
        f"{report.n_kept}{labels}" if labels else f"{report.n_kept} pairs",
        counts(report.dropped),
        counts(report.noted),
        "" if check.lengths is None else f"{check.lengths.auc:.2f}",
        check.verdict.replace("_", " "),
        "yes" if back else "NO",
    ]


def main() -> None:
    """Prints the table and writes it beside the other results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            rows.append(row_of(case, *examine(case, arguments.data, Path(scratch))))
            print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    environment = {"python": platform.python_version(), "datasets": datasets.__version__}
    record = {"environment": environment, "header": HEADER, "rows": rows}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
