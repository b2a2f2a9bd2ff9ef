"""Rows know their lines, wherever they travel and whatever is made of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from distal.data import ReadOptions, prepare_dataset
from distal.data.places import PlacedRow, placed, read_placed
from distal.data.reasons import RowProblem
from distal.errors import DataError

ROWS = b'\n{"q": "film", "chosen": "good", "rejected": "bad"}\n\n\n{"q": "film", "chosen": 3, "rejected": "bad"}\n'


def test_rows_and_problems_travel_with_their_line() -> None:
    row = PlacedRow(prompt="p")
    row.line, row.problem = 7, RowProblem("bad_type", "found", "mend").at(7)
    again = pickle.loads(pickle.dumps(row))
    assert (again, again.line, str(again.problem)) == (row, 7, "line 7: found; mend")
    made = placed({"x": 1}, {"no": "place"}, row)
    assert (made.line, made.problem) == (7, row.problem)
    with pytest.raises(RowProblem, match="line 7: found"):
        list(read_placed(lambda _: iter(()), row))


def test_the_first_line_that_is_known_counts() -> None:
    problem = RowProblem("bad_type", "found", "mend")
    assert str(problem.at(None)) == "found; mend"
    assert str(problem.at(3).at(9)) == "line 3: found; mend"


def test_reports_and_errors_name_lines(tmp_path: Path, words: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    reading = ReadOptions(columns={"prompt": "q"})
    report = prepare_dataset(path, words, reading=reading).report
    assert report.dropped["bad_type"].example.startswith("line 5: column chosen is number 3; ")
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\): line 5: column chosen"):
        prepare_dataset(path, words, reading=reading, on_bad_rows="error")
