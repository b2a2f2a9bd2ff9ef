"""Reading what a run left behind: whatever is missing or broken is told, never guessed and never fatal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

__all__ = ["FolderReader", "Problem", "finite", "mapping", "pair", "records", "text"]

_SHOWN_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something in a file that could not be read; the page says so, and the exit code too.

    Attributes:
        file: name within the run folder.
        message: what is wrong with it.
    """

    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class FolderReader:
    """Reads files of one folder, and remembers what was wrong with them.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []

    def first(self, *names: str) -> Path | None:
        """The first of some files that exists, None if none does."""
        return next((path for name in names if (path := self.folder / name).is_file()), None)

    def files(self, *patterns: str) -> list[Path]:
        """Files that match any of some patterns, in order of patterns and names."""
        return [path for pattern in patterns for path in sorted(self.folder.glob(pattern)) if path.is_file()]

    def name(self, path: Path) -> str:
        """A file's name within the folder."""
        return path.relative_to(self.folder).as_posix()

    def complain(self, path: Path, message: str) -> None:
        """Remembers what is wrong with a file."""
        self.problems.append(Problem(file=self.name(path), message=message))

    def text(self, path: Path) -> str | None:
        """A text file; bytes that are not UTF-8 are replaced, since they are shown and nothing more."""
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.complain(path, f"cannot be read: {error.strerror or error}")
            return None

    def json(self, path: Path) -> Any:
        """A JSON document, None where it is broken."""
        return self._parsed(path, "JSON", json.loads)

    def yaml(self, path: Path) -> Any:
        """A YAML document, None where it is broken."""
        return self._parsed(path, "YAML", yaml.safe_load)

    def json_lines(self, path: Path) -> list[dict[str, Any]]:
        """The objects of a file of JSON lines; lines that hold none are counted and left out."""
        found: list[dict[str, Any]] = []
        broken: list[int] = []
        for number, line in enumerate((self.text(path) or "").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                found.append(cast(dict[str, Any], value))
            else:
                broken.append(number)
        if broken:
            self.complain(path, f"{rows_named('line', broken)}: no JSON object, left out")
        return found

    def _parsed(self, path: Path, kind: str, parse: Callable[[str], Any]) -> Any:
        content = self.text(path)
        if content is None:
            return None
        try:
            return parse(content)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            place = next(iter(str(error).splitlines()), type(error).__name__)
            self.complain(path, f"is no {kind} ({place})")
            return None


def rows_named(noun: str, numbers: Sequence[int]) -> str:
    """Some rows in words: the first few by number.

    Examples:
        >>> rows_named("line", [3]), rows_named("row", [1, 2, 3, 4, 5, 6])
        ('line 3', '6 rows (1, 2, 3, 4, 5, ...)')
    """
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    shown = ", ".join(map(str, numbers[:_SHOWN_ROWS])) + (", ..." if len(numbers) > _SHOWN_ROWS else "")
    return f"{len(numbers):,} {noun}s ({shown})"


def finite(value: object) -> float | None:
    """A number, None for anything else: not a number, infinite, a truth value, absent.

    Examples:
        >>> finite(2), finite(float("nan")), finite(True), finite("3")
        (2.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def pair(value: object) -> tuple[float, float] | None:
    """An interval, None for anything but two finite numbers."""
    if not isinstance(value, list | tuple) or len(cast(Sequence[object], value)) != 2:
        return None
    low, high = (finite(bound) for bound in cast(Sequence[object], value))
    return None if low is None or high is None else (low, high)


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping with names as keys; an empty one for anything else."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): item for key, item in cast(Mapping[object, Any], value).items()}


def records(value: object) -> list[Mapping[str, Any]]:
    """The mappings of a list; none for anything else."""
    if not isinstance(value, list):
        return []
    return [mapping(item) for item in cast(list[object], value) if isinstance(item, Mapping)]


def text(value: object) -> str | None:
    """A text, None for anything else."""
    return value if isinstance(value, str) else None
