"""What rows say besides the preference: columns, turns, and what cannot be asked."""

from __future__ import annotations

from typing import Any

import pytest

from distal.data import prepare_dataset
from distal.data.attributes import unit_attributes
from distal.errors import ConfigError


def _rows(make_pairs: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in make_pairs(6)]
    for i, row in enumerate(rows):
        row |= {"source": "web" if i % 2 else None, "score": i / 2}
    rows[2]["rejected"] = rows[2]["chosen"]  # cannot be used, and is left out
    return rows


def test_columns_follow_the_rows_that_are_kept(make_pairs: Any, word_tokenizer: Any) -> None:
    rows = _rows(make_pairs)
    data = prepare_dataset(rows, word_tokenizer).select([4, 0, 1])
    found = unit_attributes(data, rows, ["source", "score", "turns"])
    assert data.source_rows.tolist() == [5, 0, 1]
    assert found["source"].tolist() == ["web", "(none)", "web"]
    assert found["score"].tolist() == [2.5, 0.0, 0.5]
    assert found["turns"].tolist() == [1, 1, 1]


def test_turns_of_transcripts_and_conversations(word_tokenizer: Any) -> None:
    start = "\n\nHuman: w3\n\nAssistant: w4\n\nHuman: w5\n\nAssistant:"
    transcripts = [{"chosen": start + " w6", "rejected": start + " w7"}]
    data = prepare_dataset(transcripts, word_tokenizer)
    assert unit_attributes(data, transcripts, ["turns"])["turns"].tolist() == [2]


def test_a_column_that_is_not_there_is_named(make_pairs: Any, word_tokenizer: Any) -> None:
    rows = _rows(make_pairs)
    with pytest.raises(ConfigError, match=r"slice_by: tone: no such column .* chosen, rejected"):
        unit_attributes(prepare_dataset(rows, word_tokenizer), rows, ["tone"])


def test_rows_that_many_answers_were_made_of_have_no_column(word_tokenizer: Any) -> None:
    graded = [
        {"prompt": "w3", "completions": [" w4", " w5"], "scores": [float(i), 3.0 - i]} for i in range(4)
    ]
    data = prepare_dataset(graded, word_tokenizer)
    with pytest.raises(ConfigError, match="made of several graded rows each"):
        unit_attributes(data, graded, ["scores"])
