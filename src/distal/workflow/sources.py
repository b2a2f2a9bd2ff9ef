"""Where options come from: a YAML file and command-line words, each kept with its place for messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distal.errors import ConfigError

__all__ = [
    "COMMAND_LINE",
    "Given",
    "nearest_paths",
    "parse_command_line",
    "parse_scalar",
    "read_yaml",
    "without_stale_splits",
]

COMMAND_LINE = "command line"
_NULLS = ("~", "null", "Null", "NULL")
_KINDS: dict[type[yaml.Node], str] = {yaml.ScalarNode: "single value", yaml.SequenceNode: "list"}
_SWITCH_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})


@dataclass(frozen=True, slots=True)
class Given:
    """One option as the user gave it.

    Attributes:
        key: name in snake case.
        value: the value, parsed by the rules of YAML 1.2.
        text: the scalar as it was written, None for lists and mappings.
        where: `file.yaml:12` or `command line`.
    """

    key: str
    value: Any
    text: str | None
    where: str


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `no` stays text, `1e-5` is a number, `012` is twelve, dates stay text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """An integer in base ten, leading zeros included."""
    return int(str(loader.construct_scalar(node)))


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A nested mapping, which may not hold a key twice."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key.value!r} is given twice", key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def nearest_paths(path: Path) -> list[str]:
    """Up to three existing names beside `path` that resemble it, for messages about a missing file."""
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, siblings, 3, 0.6)]


def _read_text(path: Path) -> str:
    """Content of a configuration file, or a `ConfigError` that says why there is none."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; --config takes a YAML file.")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest_paths(path)
        hint = f" Did you mean {' or '.join(near)}?" if near else " Check the path given to --config."
        raise ConfigError(f"no such configuration file: {path}.{hint}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {error.start}); --config takes a YAML file."
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from None


def _yaml_problem(path: Path, error: yaml.YAMLError) -> ConfigError:
    """A `ConfigError` with the place that the YAML reader complained about."""
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return ConfigError(f"{place}: not valid YAML: {problem}. Write one `option: value` per line.")


def read_yaml(path: str | Path) -> tuple[list[Given], list[str]]:
    """Reads the options of a YAML file.

    Args:
        path: file with one flat mapping of option names to values.

    Returns:
        The options in the order of the file, and one message for every key that cannot be used.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    path = Path(path)
    text = _read_text(path)
    try:
        loader = _Loader(text)  # refuses control characters
    except yaml.YAMLError as error:
        raise _yaml_problem(path, error) from None
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty; write one `option: value` per line.")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(
                f"{path}:{node.start_mark.line + 1}: expected `option: value` lines, found a {_KINDS[type(node)]}."
            )
        return _entries(loader, node, path)
    except yaml.YAMLError as error:
        raise _yaml_problem(path, error) from None
    finally:
        loader.dispose()


def _entries(loader: _Loader, node: yaml.MappingNode, path: Path) -> tuple[list[Given], list[str]]:
    """The options of the topmost mapping, and messages about keys given twice."""
    options: list[Given] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value).replace("-", "_"), key_node.start_mark.line + 1
        if key in lines:
            problems.append(f"{path}:{line}: {key} is given twice (first in line {lines[key]}); keep one.")
            continue
        lines[key] = line
        plain = isinstance(value_node, yaml.ScalarNode)
        value = loader.construct_object(value_node, deep=True)
        options.append(Given(key, value, value_node.value if plain else None, f"{path}:{line}"))
    return options, problems


def parse_scalar(text: str) -> object:
    """Reads a command-line value by the rules of YAML, except that text is never cut or unquoted.

    Examples:
        >>> parse_scalar("1e-5"), parse_scalar("no # comment"), parse_scalar("[q_proj, v_proj]")
        (1e-05, 'no # comment', ['q_proj', 'v_proj'])
    """
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str) or (value is None and text not in _NULLS):
        return text
    return value


def parse_command_line(
    words: Sequence[str], *, is_known: Callable[[str], bool], is_switch: Callable[[str], bool]
) -> tuple[list[Given], list[str]]:
    """Reads `--key value`, `--key=value`, `--flag` and `--no-flag`, in kebab or snake case.

    Args:
        words: what the shell handed over.
        is_known: whether an option of this name (snake case) exists.
        is_switch: whether the option of this name is a yes-or-no option, which needs no value.

    Returns:
        The options in order, and one message for every word that cannot be used.
    """
    options: list[Given] = []
    problems: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            problems.append(f"{COMMAND_LINE}: {word!r} is no option; options are written --name value.")
            continue
        name, has_value, text = word[2:].partition("=")
        key = name.replace("-", "_")
        if not has_value and is_known(key):
            text = _value_word(rest, is_switch(key))
        elif not has_value:
            negated = key.removeprefix("no_")
            if negated != key and is_known(negated):
                if not is_switch(negated):
                    problems.append(f"{COMMAND_LINE}: --{name}: {negated} is not a switch and needs a value.")
                    continue
                key, text = negated, "false"
            else:  # unknown: its value, if any, must not be reported a second time
                text = _value_word(rest, False) or "true"
        if text is None:
            problems.append(f"{COMMAND_LINE}: --{name} needs a value: --{name} VALUE.")
            continue
        options.append(Given(key, parse_scalar(text), text, COMMAND_LINE))
    return options, problems + _repeated(options)


def _value_word(rest: list[str], switch: bool) -> str | None:
    """Takes the value of an option from the remaining words; `true` for a switch that stands alone."""
    following = rest[0] if rest else None
    if switch:
        return rest.pop(0) if following is not None and following.lower() in _SWITCH_WORDS else "true"
    if following is None or (following.startswith("--") and len(following) > 2):
        return None
    return rest.pop(0)


def _repeated(options: Iterable[Given]) -> list[str]:
    """Messages about options that were given more than once."""
    keys = [option.key for option in options]
    return [
        f"{COMMAND_LINE}: {key} is given {keys.count(key)} times; keep one."
        for key in dict.fromkeys(keys)
        if keys.count(key) > 1
    ]


def without_stale_splits(
    from_file: Sequence[Given], from_words: Sequence[Given]
) -> tuple[list[Given], list[str]]:
    """Leaves out splits of a file that belong to data which the command line replaces.

    Args:
        from_file: options of the configuration file.
        from_words: options of the command line.

    Returns:
        The options of the file that still hold, and a line that says which do not.

    Examples:
        >>> file = [
        ...     Given("data", "a/b", "a/b", "run.yaml:1"),
        ...     Given("eval_split", "test", "test", "run.yaml:2"),
        ... ]
        >>> kept, notes = without_stale_splits(file, [Given("data", "c.jsonl", "c.jsonl", COMMAND_LINE)])
        >>> [option.key for option in kept]
        ['data']
        >>> print(*notes)
        eval_split: test (run.yaml:2) belongs to a/b and is left out; --eval-split names a split of c.jsonl
    """
    file = {option.key: option for option in from_file if option.value is not None}
    words = {option.key: option for option in from_words}

    def replaced(key: str) -> bool:
        return key in words and words[key].value != (file[key].value if key in file else None)

    # A split for evaluation is one of eval_data, or of data where there is no eval_data.
    owners = {"split": "data", "eval_split": "eval_data" if "eval_data" in file else "data"}
    notes: list[str] = []
    stale: set[str] = set()
    for key, owner in owners.items():
        by = "eval_data" if key == "eval_split" and replaced("eval_data") else owner
        if key not in file or key in words or owner not in file or not replaced(by):
            continue
        stale.add(key)
        option, now = file[key], words[by] if words[by].value is not None else words.get("data", file["data"])
        notes.append(
            f"{key}: {option.value} ({option.where}) belongs to {file[owner].value} and is left out; "
            f"--{key.replace('_', '-')} names a split of {now.value}"
        )
    return [option for option in from_file if option.key not in stale], notes
