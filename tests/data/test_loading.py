"""Data sets in memory, saved folders and the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from distal.data import open_preferences
from distal.data.loading import open_rows
from distal.data.schemas import Preference
from distal.errors import ConfigError, DataError

ROWS = [
    {"prompt": "p", "completion": "c", "label": True, "other": 1},
    {"prompt": "q", "completion": "d", "label": False, "other": 2},
]
COLUMNS = {"prompt", "completion", "label"}
WANTED = [{key: row[key] for key in ("prompt", "completion", "label")} for row in ROWS]


@pytest.fixture
def splits() -> datasets.DatasetDict:
    train = datasets.Dataset.from_list(ROWS)
    return datasets.DatasetDict({"train": train, "test": train.select([0])})


def test_list_and_dataset_give_their_rows(splits: datasets.DatasetDict) -> None:
    assert list(open_rows(ROWS).read(COLUMNS)) == ROWS
    raw = open_rows(splits["train"], name="mine")
    assert raw.name == "mine"
    assert raw.columns == ("prompt", "completion", "label", "other")
    assert list(raw.read(COLUMNS)) == WANTED
    assert list(open_rows(splits).read(COLUMNS)) == WANTED
    assert list(open_rows(splits, split="test").read(COLUMNS)) == WANTED[:1]


def test_a_format_set_on_a_dataset_does_not_matter(splits: datasets.DatasetDict) -> None:
    assert list(open_rows(splits["train"].with_format("numpy")).read(COLUMNS)) == WANTED


def test_saved_folders(tmp_path: Path, splits: datasets.DatasetDict) -> None:
    splits.save_to_disk(tmp_path / "both")
    splits["test"].save_to_disk(tmp_path / "one")
    assert list(open_rows(tmp_path / "both").read(COLUMNS)) == WANTED
    assert list(open_rows(str(tmp_path / "both"), split="test").read(COLUMNS)) == WANTED[:1]
    assert list(open_rows(tmp_path / "one").read(COLUMNS)) == WANTED[:1]
    with pytest.raises(DataError, match="no split 'eval'; choose one of train, test"):
        open_rows(tmp_path / "both", split="eval")
    with pytest.raises(ConfigError, match="single data set"):
        open_rows(tmp_path / "one", split="test")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(
        DataError, match=r"not a folder written by datasets' save_to_disk .* holds a\.jsonl; name one"
    ):
        open_rows(tmp_path)


def test_a_hub_id_is_loaded_without_remote_code(
    monkeypatch: pytest.MonkeyPatch, splits: datasets.DatasetDict
) -> None:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, **options: Any) -> Any:
        calls.append((name, options))
        return splits[options["split"]] if options["split"] else splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(open_rows("some-org/some.set").read(COLUMNS)) == WANTED
    assert list(open_rows("some-org/some.set", split="test").read(COLUMNS)) == WANTED[:1]
    assert calls == [("some-org/some.set", {"split": None}), ("some-org/some.set", {"split": "test"})]


def test_a_hub_failure_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, **options: Any) -> Any:
        raise ConnectionError("offline\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError, match="no such local file, and the hub data set could not be loaded: offline;"
    ):
        open_rows("some-org/some-set")


@pytest.mark.parametrize("path", ["org/data.jsonl", "./a/b", "a/b/c", "data.parquet"])
def test_a_path_is_never_asked_for_at_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match="no such file"):
        open_rows(path)


def test_rows_of_a_wrong_kind(splits: datasets.DatasetDict) -> None:
    with pytest.raises(DataError, match="row 1 is number 3, expected a dictionary"):
        list(open_rows([{}, 3]).read(COLUMNS))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="cannot read rows from int"):
        open_rows(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="streaming data sets have no length"):
        open_rows(splits["train"].to_iterable_dataset())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="split='train' has no meaning"):
        open_rows(ROWS, split="train")


def test_rows_as_pandas_hands_them_out() -> None:
    table = datasets.Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "p"}],
                "completion": [{"role": "assistant", "content": "c"}],
            }
        ]
    ).to_pandas()
    assert isinstance(table, pandas.DataFrame)
    table["label"] = pandas.array([True], dtype="boolean")
    table["tools"] = pandas.array([None], dtype="string")
    (made,) = [made for _, made in open_preferences(table.to_dict("records"))]
    assert made == Preference(
        [{"role": "user", "content": "p"}], ([{"role": "assistant", "content": "c"}],), (True,)
    )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the layout of the hub, with two configurations."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    for name, prompt in (("a/train", "first"), ("b/train", "second"), ("b/test", "held out")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        row = {"prompt": prompt, "chosen": "x", "rejected": "y"}
        (folder / f"{name}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: a/*.jsonl\n- config_name: two\n  data_files:\n"
        "  - {split: train, path: b/train.jsonl}\n  - {split: test, path: b/test.jsonl}\n---\n# A card\n",
        encoding="utf-8",
    )
    return folder


def test_configurations_and_folders_of_a_data_set(repository: Path) -> None:
    for part, split, prompt in (
        ("one", None, "first"),
        ("two", None, "second"),
        ("two", "test", "held out"),
        ("b/", None, "second"),
        ("b/", "test", "held out"),
    ):
        raw = open_rows(f"{repository}:{part}", split=split)
        assert raw.name == f"{repository}:{part}"
        assert [row["prompt"] for row in raw.read(())] == [prompt]
    for part, found in (
        ("three", "BuilderConfig 'three' not found.*'one', 'two'.*a folder of it.*set:three/"),
        (
            "three/",
            "cannot be loaded as a data set in the layout of the hub.*a configuration of it.*set:three",
        ),
    ):
        with pytest.raises(DataError, match=found):
            open_rows(f"{repository}:{part}")
    with pytest.raises(DataError, match=r"'one', 'two'.*written .*set:NAME"):
        open_rows(repository)
    with pytest.raises(DataError, match="no split 'eval'; choose one of train, test"):
        open_rows(f"{repository}:two", split="eval")


def test_parts_that_are_none(repository: Path, tmp_path: Path) -> None:
    for part in ("../cache/", "/etc/", "b/../../cache/", "\\x/"):
        with pytest.raises(ConfigError, match="must be inside the data set"):
            open_rows(f"{repository}:{part}")
    with pytest.raises(ConfigError, match="behind the colon"):
        open_rows(f"{repository}:")
    with pytest.raises(ConfigError, match="no meaning for the single file"):
        open_rows(f"{repository / 'a' / 'train.jsonl'}:one")
    odd = tmp_path / "a:b.jsonl"
    odd.write_text(json.dumps({"prompt": "p", "chosen": "x", "rejected": "y"}), encoding="utf-8")
    assert open_rows(odd).name == str(odd)


def test_the_hub_is_asked_for_parts(monkeypatch: pytest.MonkeyPatch, splits: datasets.DatasetDict) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **given: calls.append((path, given)) or splits)
    assert open_rows("org/set:part").name == "org/set:part"
    open_rows("org/set:data/part/")
    assert calls == [
        ("org/set", {"split": None, "name": "part"}),
        ("org/set", {"split": None, "data_dir": "data/part"}),
    ]
