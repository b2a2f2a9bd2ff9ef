"""Options that say how data is read: words and mappings mean the same, and mistakes are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distal.data import GradeOptions, ReadOptions, open_preferences
from distal.data.checking import check_data
from distal.errors import ConfigError
from distal.workflow import resolve_options
from distal.workflow.options import DataOptions
from distal.workflow.preparation import prepared_data
from distal.workflow.reading import read_options
from tests.cli.conftest import write_rows


def test_words_and_mappings_mean_the_same() -> None:
    wanted = ReadOptions(
        columns={"prompt": "question", "score": "meta.mark"},
        grades=GradeOptions(grades={"a": 1.0, "b": -0.5}, threshold=3.0),
    )
    for given in (
        {"map": "prompt=question score=meta.mark", "grades": "a b=-0.5", "grade_threshold": "3"},
        {"map": ["prompt=question", "score=meta.mark"], "grades": ["a", "b=-0.5"], "grade_threshold": 3},
        {
            "map": {"prompt": "question", "score": "meta.mark"},
            "grades": {"a": 1, "b": -0.5},
            "grade_threshold": 3.0,
        },
    ):
        assert read_options(**given) == wanted  # pyright: ignore[reportArgumentType]
    assert read_options() == ReadOptions()
    assert read_options(from_grades=None, grades=None).grades is None


def test_a_configuration_file_may_use_mappings(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "model: m\ndata: d\nmap: {prompt: question}\ngrades: {a: 1, b: -0.5}\nfrom_grades: all_pairs\n"
        f"grade_margin: 2\noutput_dir: {tmp_path}\nreport_to: none\n"
    )
    reading = resolve_options(config, []).data.reading()
    assert reading.columns == {"prompt": "question"}
    assert reading.grades == GradeOptions(method="all_pairs", grades={"a": 1.0, "b": -0.5}, margin=2.0)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"grades": "a=much"}, "a=much should be an attribute with a number"),
        ({"grades": "=2"}, "=2 should be an attribute with a number"),
        ({"grades": "a=inf"}, "a=inf should be"),
        ({"grades": "a a=2"}, "a is given twice"),
        ({"map": {"prompt": 3}}, "map: prompt should be the name of a column"),
        ({"grade_threshold": "mean"}, "grade_threshold='mean'"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_options(**given)
    assert part in str(caught.value)


def graded_file(path: Path, marks: list[float]) -> Path:
    rows = [
        {"prompt": f"w{3 + i % 40}", "response": f" w{4 + i}", "score": mark} for i, mark in enumerate(marks)
    ]
    return write_rows(path, rows)


def test_held_out_answers_are_liked_above_the_grade_of_the_training_data(
    tmp_path: Path, word_tokenizer: PreTrainedTokenizerFast
) -> None:
    train = graded_file(tmp_path / "train.jsonl", [float(mark) for mark in range(10)])  # median 4.5
    held_out = graded_file(tmp_path / "held-out.jsonl", [3, 5, 6, 7, 8, 9])  # its own would be 6.5
    training: Any = SimpleNamespace(
        max_length=64,
        on_bad_rows="drop",
        truncation="drop",
        loss_on="completion",
        use_weights=True,
        dataset_num_proc=None,
        row_cache_dir=None,
        seed=0,
    )

    def liked(data: Path, **options: Any) -> tuple[list[bool], str]:
        given = DataOptions(data=str(train), eval_data=str(data), **options)
        found = prepared_data(given, training, word_tokenizer)[1]
        return found.labels.tolist(), "\n".join(found.report.notes)

    labels, notes = liked(held_out)
    assert labels == [False, True, True, True, True, True]
    assert f"above and below 4.5, the median of {train}" in notes
    assert liked(held_out, grade_threshold=7.5)[0] == [False, False, False, False, True, True]
    # Data without grades have none to be compared.
    judged = [{"prompt": "w3", "completion": f" w{4 + i}", "label": i < 2} for i in range(6)]
    assert liked(write_rows(tmp_path / "judged.jsonl", judged))[0] == [True, True, False, False, False, False]
    checked = check_data(open_preferences(train))
    assert "the median of the grades is 4.5" in checked.report.notes
