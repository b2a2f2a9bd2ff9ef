"""Converted files come back the same, here and in the libraries they are for; splits share no prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.data import GradeOptions, ReadOptions, open_preferences
from distal.data.checking import CheckSettings, check_data
from distal.data.conversion import convert, split
from distal.data.keys import plain_text
from distal.data.schemas import Preference
from distal.data.splitting import split_by_group
from distal.errors import ConfigError, DataError, OutputError

HEAD = [{"role": "system", "content": "s"}, {"role": "user", "content": "ü\u2028"}]


def bot(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, **more}]


PLAIN = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b\nc"} for i in range(5)]
SOURCES: dict[str, list[dict[str, Any]]] = {
    "plain": PLAIN,
    "unpaired": [{"prompt": "", "completion": "c", "label": i % 2 == 0} for i in range(3)],
    "chat": [{"prompt": HEAD, "chosen": bot("a"), "rejected": bot("b")}],
    "implicit": [{"chosen": HEAD + bot("a"), "rejected": HEAD + bot("b")}],
    "kto": [{"messages": HEAD + bot("a"), "label": False}],
    "tools": [{"prompt": HEAD, "chosen": bot("a"), "rejected": bot("b"), "tools": [{"name": "t"}]}],
}
SUFFIXES = ("jsonl", "jsonl.gz", "parquet")


def preferences(data: Any, **options: Any) -> list[Preference]:
    return [made for _, made in open_preferences(data, **options) if isinstance(made, Preference)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", SOURCES)
def test_what_is_written_is_what_was_read(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / "new" / f"{name}.{suffix}"
    report = convert(open_preferences(SOURCES[name]), path)
    assert report.n_kept == len(SOURCES[name])
    assert preferences(path) == preferences(SOURCES[name])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["plain", "unpaired", "chat"])
def test_datasets_and_trl_read_it(tmp_path: Path, name: str) -> None:
    from trl.data_utils import is_conversational, maybe_extract_prompt

    for suffix, builder in (("jsonl", "json"), ("parquet", "parquet")):
        path = tmp_path / f"rows.{suffix}"
        convert(open_preferences(SOURCES[name]), path)
        loaded: Any = datasets.load_dataset(
            builder, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        rows: list[Any] = list(loaded)
        assert is_conversational(rows[0]) == (name == "chat")
        assert preferences([dict(maybe_extract_prompt(row)) for row in rows]) == preferences(SOURCES[name])
        assert preferences(loaded) == preferences(SOURCES[name])


def test_weights_are_a_column(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": str(score), "score": score} for score in (1, 2, 4)]
    options = ReadOptions(grades=GradeOptions(method="all_pairs", weights=True))
    for suffix in ("jsonl", "parquet"):
        path = tmp_path / f"rows.{suffix}"
        convert(open_preferences(rows, options), path)
        loaded: Any = datasets.load_dataset(
            "json" if suffix == "jsonl" else suffix,
            data_files=str(path),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        found = {(row["chosen"], row["rejected"]): row["weight"] for row in loaded}
        assert found == {("2", "1"): 0.5, ("4", "1"): 1.5, ("4", "2"): 1.0}
        assert any("column weight" in note for note in open_preferences(path).notes)


RARE: list[dict[str, Any]] = [
    {"prompt": HEAD, "chosen": bot(f"a{i}"), "rejected": bot("b")} for i in range(2500)
]
RARE[2], RARE[1400] = {**RARE[2], "weight": 5.0}, {**RARE[1400], "tools": [{"name": "f"}]}
"""What is optional comes up late, and not at once."""


@pytest.mark.parametrize("size", [4, 2500])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_that_only_some_rows_have(tmp_path: Path, suffix: str, size: int) -> None:
    rows = RARE if size == len(RARE) else [*RARE[1:4], RARE[1400]]
    path = tmp_path / f"rows.{suffix}"
    convert(open_preferences(rows), path)
    found = preferences(path)
    assert found == preferences(rows)
    assert [row.weight for row in found if row.weight is not None] == [5.0]
    assert [row.tools for row in found if row.tools is not None] == [[{"name": "f"}]]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_both_parts_of_a_split_have_the_same_columns(tmp_path: Path) -> None:
    rows = [{**row, "prompt": [*HEAD, {"role": "user", "content": str(i)}]} for i, row in enumerate(RARE)]
    parts = [tmp_path / "train.parquet", tmp_path / "held_out.parquet"]
    split(open_preferences(rows), parts[0], parts[1], 100)
    columns = ["prompt", "chosen", "rejected", "tools", "weight"]
    assert [pq.read_schema(part).names for part in parts] == [columns, columns]
    found = [row for part in parts for row in preferences(part)]
    assert sorted(map(str, found)) == sorted(map(str, preferences(rows)))
    split(open_preferences(PLAIN), parts[0], parts[1], 2, overwrite=True)
    assert [pq.read_schema(part).names for part in parts] == [columns[:3], columns[:3]]


def test_what_only_json_can_hold(tmp_path: Path) -> None:
    call = bot("", tool_calls=[{"function": {"name": "f"}}])
    rows: list[dict[str, Any]] = [{"prompt": HEAD, "chosen": call, "rejected": bot("b")}]
    with pytest.raises(DataError, match=r"messages of chosen hold tool_calls .* write \.jsonl"):
        convert(open_preferences(rows), tmp_path / "rows.parquet")
    options = [{"prompt": "p", "chosen": "a", "rejected": "b", "chat_template_kwargs": {"x": 1}}]
    with pytest.raises(DataError, match="chat_template_kwargs holds options"):
        convert(open_preferences(options), tmp_path / "rows.parquet")
    mixed = [*PLAIN, SOURCES["chat"][0]]
    with pytest.raises(DataError, match=r"do not fit into one table.*write \.jsonl"):
        convert(open_preferences(mixed), tmp_path / "rows.parquet")
    assert not list(tmp_path.iterdir())
    for data in (rows, options, mixed):
        convert(open_preferences(data), tmp_path / "rows.jsonl", overwrite=True)
        assert preferences(tmp_path / "rows.jsonl") == preferences(data)


def test_nothing_is_replaced_or_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already; nothing was touched"):
        convert(open_preferences(PLAIN), path)
    bad = [{"prompt": "p", "chosen": "same", "rejected": "same"}]
    with pytest.raises(DataError, match="no row can be used"):
        convert(open_preferences(bad), path, overwrite=True)
    with pytest.raises(DataError, match="row 0 .counted from 0.: both sides are the same"):
        convert(open_preferences(bad), path, overwrite=True, on_bad_rows="error")
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
    with pytest.raises(ConfigError, match=r"unknown kind of file to write; name it \*\.jsonl"):
        convert(open_preferences(PLAIN), tmp_path / "rows.csv")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        convert(open_preferences(PLAIN), tmp_path / "folder.jsonl")
    with pytest.raises(OutputError, match="cannot write"):
        convert(open_preferences(PLAIN), path / "inside.jsonl")


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
        for path in (one, two):
            convert(open_preferences(PLAIN), path)
        assert one.read_bytes() == two.read_bytes()


PROMPTS = st.lists(st.sampled_from(["a", " A", "b", "c", "d\n", "e", "f"]), min_size=2, max_size=20)


@given(PROMPTS, st.integers(0, 5), st.sampled_from([1, 2, 0.3]))
def test_splits_share_no_prompt(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], seed: int, size: Any
) -> None:
    folder = tmp_path_factory.mktemp("split")
    rows = [{"prompt": prompt, "chosen": f"x{i}", "rejected": "y"} for i, prompt in enumerate(prompts)]
    train, held_out = folder / "train.jsonl", folder / "held_out.jsonl"
    if len({plain_text(prompt) for prompt in prompts}) == 1:
        with pytest.raises(DataError, match="one side would be empty"):
            split(open_preferences(rows), train, held_out, size, seed=seed)
        return
    try:
        report, n_held_out = split(open_preferences(rows), train, held_out, size, seed=seed)
    except DataError as error:
        assert "one side would be empty" in str(error)  # noqa: PT017 - one prompt may be nearly everything
        return
    sides = [[json.loads(line) for line in path.read_text().splitlines()] for path in (train, held_out)]
    keys = [{plain_text(row["prompt"]) for row in side} for side in sides]
    assert not keys[0] & keys[1]
    assert sorted([*sides[0], *sides[1]], key=lambda row: int(row["chosen"][1:])) == rows
    wanted = size if size >= 1 else max(1, round(size * len(rows)))
    assert n_held_out == len(sides[1]) >= wanted
    assert report.n_kept == len(rows)
    for side in sides:
        numbers = [int(row["chosen"][1:]) for row in side]
        assert numbers == sorted(numbers)


def test_a_split_depends_on_its_seed_alone(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(40)]
    contents: list[bytes] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(open_preferences(rows), tmp_path / f"{name}1.jsonl", tmp_path / f"{name}2.jsonl", 10, seed=seed)
        contents.append((tmp_path / f"{name}2.jsonl").read_bytes())
    assert contents[0] == contents[1] != contents[2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=15), st.integers(1, 15), st.integers(0, 3))
def test_groups_stay_whole(keys: list[int], wanted: int, seed: int) -> None:
    try:
        rest, held_out = split_by_group(keys, wanted, seed, "rows")
    except DataError:
        return
    assert sorted([*rest, *held_out]) == list(range(len(keys)))
    assert not {keys[i] for i in rest} & {keys[i] for i in held_out}
    assert len(held_out) >= wanted
    # Without the group that was taken last, there would be too few.
    last = keys[held_out[-1]]
    assert np.sum(np.array(keys)[held_out] != last) < wanted


def test_long_work_shows_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_preferences(PLAIN * 500)
    convert(source, tmp_path / "quick.jsonl", progress="converting mine")
    assert capsys.readouterr().err == ""  # done in a moment
    monkeypatch.setattr("distal.data.conversion._PATIENCE", 0.0)
    report = convert(source, tmp_path / "slow.jsonl", progress="converting mine")
    shown = capsys.readouterr()
    assert "converting mine" in shown.err
    assert "100%" in shown.err
    assert shown.out == ""
    assert report.n_read == report.n_kept == 2500
    assert (tmp_path / "slow.jsonl").read_bytes() == (tmp_path / "quick.jsonl").read_bytes()
    check_data(source, CheckSettings(held_out=(source,), progress=True))
    shown = capsys.readouterr().err
    assert "checking train" in shown
    assert "reading train" in shown
