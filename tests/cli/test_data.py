"""`distal data`: what the verbs print, write and return."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from distal.data import FORMATS
from tests.cli.conftest import write_rows

Run = Callable[..., Result]

HOSTILE = "<script>alert(1)</script>\x1b[31m & \"quoted\" 'text'"


def graded_rows(n: int) -> list[dict[str, Any]]:
    return [
        {"q": f"w{i % 7 + 3}", "response": f" w{i % 50 + 3} w{i % 11 + 3}", "mark": i * 3 % 5}
        for i in range(n)
    ]


def test_formats_are_listed(distal: Run) -> None:
    shown = distal("data", "formats").output
    listed = json.loads(distal("data", "formats", "--json").output)
    assert [record["name"] for record in listed] == list(FORMATS)
    assert all(name in shown for name in FORMATS)
    assert {"name": "beavertails", "licence": "CC BY-NC 4.0"}.items() <= {
        key: value for record in listed if record["name"] == "beavertails" for key, value in record.items()
    }.items()


def test_a_check_says_what_it_found(distal: Run, pairs_file: Path, model_folder: Path) -> None:
    result = distal("data", "check", pairs_file, "--tokenizer", model_folder, "--samples", 2)
    assert result.exit_code == 0
    for part in (
        "40 rows read, 40 kept (paired), 0 left out",
        "format paired",
        "Completion lengths in tokens",
        "row 0, liked",
        "tokens at the boundary:",
        "warning: only 40 preferences can be used",
        "Verdict: usable, with warnings",
    ):
        assert part in result.output
    assert distal("data", "check", pairs_file, "--strict").exit_code == 3


def test_a_check_as_json(distal: Run, pairs_file: Path, samples_file: Path) -> None:
    result = distal("data", "check", pairs_file, "--json", "--eval-data", pairs_file)
    record = json.loads(result.stdout)
    assert record["schema"] == "distal.data_check/1"
    assert record["overlaps"][0]["exact"] == record["overlaps"][0]["held_out_prompts"] == record["prompts"]
    assert record["lengths"]["unit"] == "characters"
    assert record["report"]["n_kept"] == 40
    assert "leakage" in [finding["code"] for finding in record["findings"]]
    unpaired = json.loads(distal("data", "check", samples_file, "--json").stdout)
    assert unpaired["report"]["n_desirable"] == 40


def test_unusable_data_is_shown_and_fails(distal: Run, tmp_path: Path, model_folder: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "w3", "chosen": "w4", "rejected": "w4"}] * 3)
    for more in ((), ("--tokenizer", model_folder)):
        result = distal("data", "check", path, *more)
        assert result.exit_code == 3
        assert "left out 3: chosen equals rejected" in result.output
        assert "Verdict: not usable" in result.output
    unknown = distal("data", "check", write_rows(tmp_path / "x.jsonl", [{"a": "b"}]))
    assert unknown.exit_code == 3
    assert "wrong columns; found a" in unknown.output


def test_a_page_without_scripts(distal: Run, tmp_path: Path) -> None:
    rows = [{"prompt": HOSTILE + str(i), "chosen": HOSTILE, "rejected": "b", "<b>": 1} for i in range(3)]
    path = write_rows(
        tmp_path / "<i>rows.jsonl", [*rows, {"prompt": HOSTILE, "chosen": {"<u>": 1}, "rejected": ""}]
    )
    page = tmp_path / "out" / "page.html"
    words = ("data", "check", path, "--html", page, "--eval-data", path)
    result = distal(*words)
    assert result.exit_code == 0
    assert "\x1b[31m" not in result.output
    text = page.read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r"<(script|i|b|u|img|link|iframe)\b", text)
    # Nothing is loaded from elsewhere; addresses in citations are text.
    assert not re.search(r"(src|href)=\"(?!#)|url\((?!#)|@import", text)
    assert "\x1b" not in text
    assert "<svg" in text
    assert distal(*words).exit_code == 6
    assert distal(*words, "--overwrite").exit_code == 0


def test_options_that_have_no_effect(distal: Run, pairs_file: Path) -> None:
    for words, part in (
        (("--max-length", 5), "max_length: no effect without tokenizer"),
        (("--overwrite",), "overwrite has no effect without html"),
        (("--from-grades", "all_pairs"), "options about grades have no effect on the format paired"),
        (("--samples", -1), "samples must be at least 0"),
        (("--map", "prompt"), "'prompt' is not of the form name=column"),
        (("--format", "pairs"), "no such format"),
    ):
        result = distal("data", "check", pairs_file, *words)
        assert (result.exit_code, part in result.output) == (2, True), result.output


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_converted_grades_are_trained_on(align: Run, distal: Run, tmp_path: Path, suffix: str) -> None:
    source = write_rows(tmp_path / "graded.jsonl", graded_rows(60))
    words = ("--map", "prompt=q score=mark", "--from-grades", "all_pairs", "--grade-margin", 2)
    converted = tmp_path / f"pairs.{suffix}"
    result = distal("data", "convert", source, converted, *words)
    assert result.exit_code == 0
    assert "Written:" in result.output
    assert distal("data", "convert", source, converted, *words).exit_code == 6
    trained = align(data=converted)
    assert trained.exit_code == 0, trained.output
    # The same preferences straight from the grades.
    kept = re.findall(r"(\d+) kept \(paired\)", result.output)
    again = align(
        data=source,
        output_dir=tmp_path / "again",
        map="prompt=q score=mark",
        from_grades="all_pairs",
        grade_margin=2,
    )
    assert again.exit_code == 0, again.output
    assert re.findall(r"(\d+) kept \(paired\)", again.output) == kept
    model = "model.safetensors"
    assert (tmp_path / "out" / model).read_bytes() == (tmp_path / "again" / model).read_bytes()


def test_split_files_share_no_prompt(distal: Run, tmp_path: Path, samples_file: Path) -> None:
    train, held_out = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    result = distal("data", "split", samples_file, train, held_out, "--eval-size", 12, "--seed", 3)
    assert result.exit_code == 0, result.output
    sides = [[json.loads(line) for line in path.read_text().splitlines()] for path in (train, held_out)]
    assert len(sides[0]) + len(sides[1]) == 60
    assert len(sides[1]) >= 12
    assert not {row["prompt"] for row in sides[0]} & {row["prompt"] for row in sides[1]}
    check = json.loads(distal("data", "check", train, "--eval-data", held_out, "--json").stdout)
    assert check["overlaps"][0]["exact"] == 0
    for words, code, part in (
        ((samples_file, train, train), 2, "both parts would go to"),
        ((train, train, held_out, "--overwrite"), 6, "is the data itself"),
        ((samples_file, train, held_out), 6, "exist already; nothing was touched"),
        ((samples_file, train, held_out, "--overwrite", "--eval-size", 1.5), 2, "a split of 1.5"),
        ((samples_file, train, held_out, "--overwrite", "--eval-size", 1000), 3, "one side would be empty"),
    ):
        result = distal("data", "split", *words)
        assert (result.exit_code, part in result.output) == (code, True), result.output
    assert [json.loads(line) for line in train.read_text().splitlines()] == sides[0]


def test_a_graded_set_is_evaluated(
    distal: Run, tmp_path: Path, model_folder: Path, other_model_folder: Path
) -> None:
    source = write_rows(tmp_path / "graded.jsonl", graded_rows(60))
    words = ("--model", model_folder, "--reference", other_model_folder, "--data", source, "--json")
    result = distal("evaluate", "dominance", *words, "--map", "prompt=q score=mark", "--grade-ties", "liked")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["kind"] == "unpaired"
