"""Every file of `tests/bad_data`: read in Python and checked on the command line, with the outcome that is expected.

`tests/bad_data/expected.json` lists the files. A file is either `refused`, with these pieces of the message, or
`read`: so many preferences are kept, and the others are counted by reason, with an example that says where the first
of them is, what was found, and how to mend it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from distal.data import FORMATS, GradeOptions, PreferenceSource, ReadOptions, open_preferences
from distal.data.conversion import Counted, convert
from distal.errors import DataError, DistalError
from tests.cli.conftest import write_rows

FOLDER = Path(__file__).parent.parent / "bad_data"
RECORDS: list[dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text("utf-8"))
READ = [record for record in RECORDS if record["outcome"] == "read"]
BAD = [record for record in READ if record["dropped"]]

Run = Callable[..., Result]


def ids(records: list[dict[str, Any]]) -> list[str]:
    return [record["file"] for record in records]


def opened(record: dict[str, Any]) -> PreferenceSource:
    options = dict(record["options"])
    grades = options.pop("grades", None)
    columns = options.pop("map", {})
    reading = ReadOptions(columns=columns, grades=GradeOptions(**grades) if grades else None, **options)
    return open_preferences(FOLDER / record["file"], reading)


def words(options: dict[str, Any]) -> list[str]:
    """Options as words of the command line."""
    grades = options.get("grades", {})
    given = {"format": options.get("format"), "from-grades": grades.get("method")}
    given["map"] = " ".join(f"{name}={column}" for name, column in options.get("map", {}).items())
    given["grades"] = " ".join(f"{name}={weight}" for name, weight in grades.get("grades", {}).items())
    return [f"--{name}={value}" for name, value in given.items() if value]


def check_counts(dropped: dict[str, Any], record: dict[str, Any]) -> None:
    """Rows left out, against what is expected of them."""
    assert {reason: (count["count"], count["first_rows"]) for reason, count in dropped.items()} == {
        reason: (count["count"], count["rows"]) for reason, count in record["dropped"].items()
    }
    for reason, count in record["dropped"].items():
        example = dropped[reason]["example"]
        assert all(part in example for part in count["example"]), example
        assert "; " in example, f"no remedy: {example}"


@pytest.mark.parametrize("record", RECORDS, ids=ids(RECORDS))
def test_what_becomes_of_a_bad_file(record: dict[str, Any], distal: Run, tmp_path: Path) -> None:
    result = distal("data", "check", FOLDER / record["file"], "--json", *words(record["options"]))
    assert result.exit_code == record["exit"], result.output
    if record["outcome"] == "refused":
        assert result.stderr.count("Error: ") == 1
        with pytest.raises(DistalError) as caught:
            Counted(opened(record), "drop").numbered().__next__()
        for message in (str(caught.value), result.stderr):
            assert all(part in message for part in record["message"]), message
            assert Path(record["file"]).name in message or record["exit"] == 2, message
        return
    found = json.loads(result.stdout)["report"]
    assert found["n_kept"] == record["kept"]
    assert {remark: count["count"] for remark, count in found["noted"].items()} == record["noted"]
    check_counts(found["dropped"], record)
    source, output = opened(record), tmp_path / "converted.jsonl"
    if record["kept"]:
        # What is kept can be written and is read back; nothing of it is another kind of broken.
        report = convert(source, output)
        again = Counted(open_preferences(output), "error")
        assert report.n_kept == record["kept"] == sum(1 for _ in again)
        check_counts(report.to_dict()["dropped"], record)


@pytest.mark.parametrize("record", BAD, ids=ids(BAD))
def test_the_first_bad_row_stops_where_that_is_wanted(record: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        list(Counted(opened(record), "error"))
    message = str(caught.value)
    assert Path(record["file"]).name in message
    row = re.search(r"row (\d+) \(counted from 0\): ", message)
    assert row
    assert int(row[1]) in {rows for count in record["dropped"].values() for rows in count["rows"]}
    assert "; " in message


def test_the_corpus_holds_what_it_should() -> None:
    assert len(RECORDS) >= 120
    assert len(set(ids(RECORDS))) == len(RECORDS)
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    unlisted = {file for file in files if not any(Path(file).is_relative_to(name) for name in ids(RECORDS))}
    assert unlisted == {"expected.json"}
    assert all((FOLDER / file).stat().st_size < 16_000 for file in files - unlisted)
    assert not set(FORMATS) - {opened(record).form.name for record in BAD}, "a format without a bad row"


def test_one_huge_row(distal: Run, tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [good, {**good, "prompt": "p" * 3_000_000}, {**good, "chosen": ["x"] * 300_000}]
    result = distal("data", "check", write_rows(tmp_path / "huge.jsonl", rows), "--json", "--samples", 0)
    report = json.loads(result.stdout)["report"]
    assert report["n_kept"] == 2
    assert "line 3: chosen[0] is string 'x'" in report["dropped"]["bad_type"]["example"]
    assert len(result.stdout) < 5000


def test_a_pipe_is_no_file(distal: Run, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "rows.jsonl")
    result = distal("data", "check", tmp_path / "rows.jsonl")
    assert (result.exit_code, "no regular file" in result.output) == (3, True)


HOSTILE_NAMES = (
    "[bold]x[red].jsonl",
    "$(touch pwned);`touch pwned`.jsonl",
    "{0}{__class__}%s.jsonl",
)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_of_files_mean_nothing(
    name: str, distal: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    from distal import progress

    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "hostile" / "texts.jsonl", name)
    page, converted = f"{name}.html", f"out {name}"
    result = distal("data", "check", name, "--html", page, "--eval-data", name, "--tokenizer", model_folder)
    assert result.exit_code == 0, result.output
    assert f"{name}: 10 rows read" in result.output
    assert distal("data", "convert", name, converted).exit_code == 0
    assert f"{name}: no such file" in distal("data", "check", "x" + name).output.replace("x" + name, name)
    assert list(progress.follow(range(3), f"{name} [/x]", total=3, work=lambda _: 1)) == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {name, page, converted}


def test_texts_of_strangers_are_shown_and_not_obeyed(distal: Run, tmp_path: Path) -> None:
    file, page = FOLDER / "hostile" / "texts.jsonl", tmp_path / "page.html"
    shown = distal("data", "check", file, "--samples", 40, "--html", page)
    assert shown.exit_code == 0
    for part in (
        "[bold red]loud[/bold red] [/]",
        "{0} {__class__} %s %(x)s ${HOME}",
        "$(touch pwned)",
        "\\x1b[31m",
    ):
        assert part in shown.output, part
    assert "\x1b]0;" not in shown.output
    assert "\u202e" not in shown.output
    html = page.read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in html
    assert not re.search(r"<(script|img|b|a|link|iframe)\b", html)
    assert not re.search(r"[\x00-\x08\x1b\u202a-\u202e\u2066-\u2069]", html)
    for command in (("check",), ("convert",), ("split",)):
        outputs = {"convert": ["a.jsonl"], "split": ["b.jsonl", "c.jsonl"]}.get(command[0], [])
        result = distal(
            "data", *command, FOLDER / "hostile" / "columns.jsonl", *(tmp_path / o for o in outputs)
        )
        assert result.exit_code == 3
        assert not re.search(
            r"[\x00-\x08\x1b\u202e]", result.output.replace("\x1b[31m\x1b[1mError: \x1b[0m", "")
        )


@pytest.mark.parametrize("split", ["../../etc", "train; touch pwned", "[bold]x[/]", "{0}", "<b>", "a/b"])
def test_names_of_splits_mean_nothing(split: str, distal: Run, tmp_path: Path) -> None:
    import datasets

    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    result = distal("data", "check", tmp_path / "saved", "--split", split)
    assert result.exit_code == 3
    assert f"no split {split!r}; choose one of train" in result.output
    assert sorted(tmp_path.rglob("*")) == before
