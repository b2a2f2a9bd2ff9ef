"""Every preference file of the shared data in its own columns; what is read is counted here in another way."""

from __future__ import annotations

import gzip
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data_files import CASES, RESULTS, comes_back, row_of
from distal.data import GradeOptions, ReadOptions, open_preferences
from distal.data.checking import check_data
from distal.data.reasons import RowProblem


def fates(path: Path, options: ReadOptions | None = None) -> Counter[str]:
    """Usable preferences by label (or pairs), and the others by reason."""
    found: Counter[str] = Counter()
    for _, made in open_preferences(path, options):
        if isinstance(made, RowProblem):
            found[made.reason] += 1
        else:
            found["pair" if len(made.completions) == 2 else f"{made.desirable[0]}"] += 1
    return found


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


SMALL = [number for number, case in enumerate(CASES) if not case.file.startswith("arena")]
"""The cases that take less than a second; the others are counted below."""


@pytest.mark.parametrize("number", SMALL, ids=[f"{CASES[number].file}-{number}" for number in SMALL])
def test_the_committed_table_is_what_is_read(shared_data: Path, number: int, tmp_path: Path) -> None:
    case, committed = CASES[number], json.loads(RESULTS.read_text("utf-8"))["rows"][number]
    source = open_preferences(shared_data / case.file, case.reading)
    small = source.form.name in {"kto-messages", "oasst", "stack-exchange", "tulu3-preference", "tulu1-human"}
    back = comes_back(source, tmp_path) if small else True
    assert row_of(case, check_data(source), back) == committed


def test_pairs_of_ranked_siblings(shared_data: Path) -> None:
    path, expected = shared_data / "oasst" / "trees.jsonl.gz", Counter[str]()

    def count(message: dict[str, Any]) -> None:
        ranks = [r.get("rank") for r in message["replies"] if r["role"] == "assistant" and not r["deleted"]]
        expected["pair"] += sum(a < b for a in ranks for b in ranks if a is not None and b is not None)
        for reply in message["replies"]:
            count(reply)

    for tree in rows_of(path):
        count(tree["prompt"])
    assert fates(path) == expected == Counter(pair=754)


def test_verdicts_of_experts(shared_data: Path) -> None:
    path = shared_data / "tulu1-human" / "annotations.jsonl.gz"
    verdicts = Counter(row["preference"] == "tie" for row in rows_of(path))
    assert fates(path) == Counter(tie=verdicts[True], pair=verdicts[False])
    # One row per side, as whoever made the unpaired file read the same answers.
    sides = fates(path, ReadOptions(format="tulu1-human-acceptable"))
    assert (
        sides
        == fates(shared_data / "tulu1-human" / "unpaired.jsonl.gz")
        == Counter(True_=0) + Counter({"True": 1818, "False": 482})
    )


def test_summaries_differ_in_what_they_say_only(shared_data: Path) -> None:
    for name in ("train", "valid"):
        path = shared_data / "summarize" / f"comparisons-{name}.jsonl.gz"
        for (_, made), row in zip(open_preferences(path), rows_of(path), strict=True):
            assert not isinstance(made, RowProblem)
            assert made.prompt == row["prompt"].rstrip() + "\n\nTL;DR:"
            for text, side in zip(made.completions, ("chosen", "rejected"), strict=True):
                assert text == " " + row[side].removeprefix("TL;DR:").strip()


def test_grades_of_a_judge(shared_data: Path) -> None:
    path = shared_data / "arena-graded" / "graded.jsonl.gz"
    grades: dict[str, list[tuple[float, str]]] = defaultdict(list)
    empty = 0
    for row in rows_of(path):
        if row["response"].strip():
            grades[row["prompt"].strip()].append((row["score"], row["response"]))
        else:
            empty += 1
    flat = [grade for answers in grades.values() for grade, _ in answers]
    middle = statistics.median(flat)
    assert fates(path) == Counter(
        {
            "True": sum(grade > middle for grade in flat),
            "False": sum(grade < middle for grade in flat),
            "grade_at_threshold": sum(grade == middle for grade in flat),
            "empty_completion": empty,
        }
    )
    pairs = fates(path, ReadOptions(grades=GradeOptions(method="best_worst")))
    assert pairs["pair"] == sum(max(answers)[0] > min(answers)[0] for answers in grades.values())
    pairs = fates(path, ReadOptions(grades=GradeOptions(method="all_pairs", margin=6)))
    wide = [
        (a, b)
        for answers in grades.values()
        for grade_a, a in answers
        for grade_b, b in answers
        if grade_a - grade_b >= 6
    ]
    assert pairs["pair"] == sum(a != b for a, b in wide)
