"""Reading options: YAML scalars, places, and every way to write an option on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.errors import ConfigError
from distal.workflow.sources import parse_command_line, parse_scalar, read_yaml

KNOWN = {"learning_rate", "lora", "max_steps", "run_name", "no_repeat"}
SWITCHES = {"lora"}


def parse(*words: str) -> tuple[dict[str, Any], list[str]]:
    options, problems = parse_command_line(
        words, is_known=KNOWN.__contains__, is_switch=SWITCHES.__contains__
    )
    return {option.key: option.value for option in options}, problems


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("3", 3),
        ("-1", -1),
        ("007", 7),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("", ""),
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("name # 1", "name # 1"),
        ("'quoted'", "'quoted'"),
        ("a: b", {"a": "b"}),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("[broken", "[broken"),
        ("*.jsonl", "*.jsonl"),
        ("@handle", "@handle"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",))))
def test_any_text_survives_the_command_line(text: str) -> None:
    options, _ = parse_command_line(
        [f"--run-name={text}"], is_known=KNOWN.__contains__, is_switch=SWITCHES.__contains__
    )
    assert options[0].text == text  # what a text option falls back on, whatever YAML makes of it


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--learning-rate", "1e-4"], {"learning_rate": 1e-4}),
        (["--learning_rate=1e-4"], {"learning_rate": 1e-4}),
        (["--max-steps", "-1"], {"max_steps": -1}),
        (["--run-name="], {"run_name": ""}),
        (["--run-name=--x"], {"run_name": "--x"}),
        (["--run-name=a=b"], {"run_name": "a=b"}),
        (["--lora"], {"lora": True}),
        (["--no-lora"], {"lora": False}),
        (["--lora", "false"], {"lora": False}),
        (["--lora=false"], {"lora": False}),
        (["--lora", "--max-steps", "2"], {"lora": True, "max_steps": 2}),
        (["--no-repeat", "3"], {"no_repeat": 3}),
    ],
)
def test_ways_to_write_an_option(words: list[str], options: dict[str, Any]) -> None:
    assert parse(*words) == (options, [])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--learning-rate"], "--learning-rate needs a value"),
        (["--learning-rate", "--lora"], "--learning-rate needs a value"),
        (["data.jsonl"], "'data.jsonl' is no option"),
        (["--lora", "data.jsonl"], "'data.jsonl' is no option"),
        (["--no-max-steps"], "max_steps is not a switch"),
        (["--max-steps", "1", "--max_steps=2"], "max_steps is given 2 times"),
    ],
)
def test_words_that_cannot_be_used(words: list[str], problem: str) -> None:
    problems = parse(*words)[1]
    assert len(problems) == 1
    assert problem in problems[0]


def test_unknown_option_takes_its_value_with_it() -> None:
    options, problems = parse("--lerning-rate", "1e-4", "--max-steps", "3")
    assert options == {"lerning_rate": 1e-4, "max_steps": 3}
    assert problems == []


def test_yaml_keeps_keys_values_and_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "# comment\nlearning-rate: 1e-5\n\nrevision: 0123\nnames:\n  - a\n  - b\n")
    options, problems = read_yaml(path)
    assert problems == []
    assert [(o.key, o.value, o.text, o.where) for o in options] == [
        ("learning_rate", 1e-5, "1e-5", f"{path}:2"),
        ("revision", 123, "0123", f"{path}:4"),
        ("names", ["a", "b"], None, f"{path}:5"),
    ]


def test_key_given_twice_is_reported_with_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "beta: 1\nlora: true\nbeta: 2\n")
    assert read_yaml(path)[1] == [f"{path}:3: beta is given twice (first in line 1); keep one."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "1: expected `option: value` lines, found a list"),
        ("just text\n", "found a single value"),
        ("a: 1\nb: [1, 2\nc: 3\n", r":3: not valid YAML"),
        ("a:\n\t- 1\n", r":2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", r":2: not valid YAML"),
        ("a: {x: 1, x: 2}\n", r":1: not valid YAML: key 'x' is given twice"),
        ("a: !!python/object/apply:os.getcwd []\n", r":1: not valid YAML"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_yaml(written(tmp_path, text))


def test_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, "a: 1")
    with pytest.raises(
        ConfigError, match=r"no such configuration file: .*rum\.yaml\. Did you mean .*run\.yaml"
    ):
        read_yaml(tmp_path / "rum.yaml")


def test_folder_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_yaml(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_yaml(tmp_path / "binary")
