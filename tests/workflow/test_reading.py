"""Options that say how data is read: words and mappings mean the same, and mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distal.data import GradeOptions, ReadOptions
from distal.errors import ConfigError
from distal.workflow import resolve_options
from distal.workflow.reading import read_options


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
