"""Counting rows by fate."""

from __future__ import annotations

import json

from distal.data import DataReport, RowCount
from distal.data.reasons import DROPPED, LENGTH_REASONS, NOTED, RowProblem
from distal.data.report import Tally


def test_tallies_add_up_in_order() -> None:
    parts: list[Tally] = []
    for start in (0, 10):
        tally = Tally()
        tally.n_read = 10
        for row in (start + 2, start + 3, start, start + 1):  # stages refuse rows in turns
            tally.drop(row, RowProblem("too_long", f"row {row}", "cut it"))
        tally.drop(start + 5, RowProblem("bad_label", "label is null", "use true"))
        tally.note("duplicate", range(start, start + 9))
        parts.append(tally)
    total = Tally()
    for part in parts:
        total.merge(part)
    assert total.n_read == 20
    # Commonest first, the first five rows of each, the example of the very first.
    assert list(total.dropped().items()) == [
        ("too_long", RowCount(8, (0, 1, 2, 3, 10), "row 0; cut it")),
        ("bad_label", RowCount(2, (5, 15), "label is null; use true")),
    ]
    assert total.noted() == {"duplicate": RowCount(18, (0, 1, 2, 3, 4))}


def test_a_report_is_text_and_json() -> None:
    report = DataReport(
        name="rows.jsonl",
        kind="unpaired",
        n_read=10,
        n_kept=7,
        dropped={"too_long": RowCount(3, (1, 2), "90 tokens")},
        noted={"duplicate": RowCount(1, (4,))},
        n_desirable=5,
        n_tokens=70,
        longest=12,
        notes=("column tools: not used",),
    )
    assert report.summary() == [
        "rows.jsonl: 10 rows read, 7 kept (unpaired: 5 true, 2 false), 3 left out; 70 tokens, longest row 12",
        "  left out 3: longer than max_length (rows 1, 2, ...; e.g. 90 tokens)",
        "  noted 1: the row repeats an earlier one (row 4)",
        "  note: column tools: not used",
    ]
    assert json.loads(json.dumps(report.to_dict())) == {
        "name": "rows.jsonl",
        "kind": "unpaired",
        "n_read": 10,
        "n_kept": 7,
        "n_dropped": 3,
        "n_offered": 10,
        "dropped": {"too_long": {"count": 3, "first_rows": [1, 2], "example": "90 tokens"}},
        "noted": {"duplicate": {"count": 1, "first_rows": [4], "example": ""}},
        "n_desirable": 5,
        "n_tokens": 70,
        "longest": 12,
        "notes": ["column tools: not used"],
    }


def test_reasons_and_remarks_have_names_of_their_own() -> None:
    assert not set(DROPPED) & set(NOTED)
    assert set(DROPPED) > LENGTH_REASONS
