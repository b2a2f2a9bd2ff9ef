"""Data sets that the `datasets` library loads: of the hub, of folders in the hub's layout, and saved ones.

`ID:NAME` is a configuration of a data set, `ID:FOLDER/` one of its folders. ID is a hub id or a local folder with the
same files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distal.data.broken import first_line
from distal.data.values import listed
from distal.errors import ConfigError, DataError

__all__ = ["SourceName", "is_hub_id", "load_folder", "load_hub", "source_name"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_CARD = "README.md"
_FRONT_MATTER = re.compile(r"---\r?\n(.*?)\r?\n---", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SourceName:
    """A data set as the user names it.

    Attributes:
        base: a path or a hub id.
        config: a configuration of it.
        folder: a folder of it, in which its files are.
    """

    base: str
    config: str | None = None
    folder: str | None = None

    def arguments(self) -> dict[str, str]:
        """What `datasets.load_dataset` is told of the part."""
        parts = {"name": self.config, "data_dir": self.folder}
        return {name: value for name, value in parts.items() if value is not None}


def is_hub_id(name: str) -> bool:
    """Whether a name could be that of a data set on the hub.

    Examples:
        >>> is_hub_id("Anthropic/hh-rlhf"), is_hub_id("a/b/c")
        (True, False)
    """
    return _HUB_ID.fullmatch(name) is not None


def source_name(data: str) -> SourceName:
    """Take `ID:NAME` and `ID:FOLDER/` apart; a path that exists is one as a whole.

    Raises:
        ConfigError: nothing stands behind the colon, or a folder that is not inside the data set.

    Examples:
        >>> source_name("Anthropic/hh-rlhf:helpful-base/")
        SourceName(base='Anthropic/hh-rlhf', config=None, folder='helpful-base')
    """
    base, colon, part = data.partition(":")
    if not colon or _exists(data) or not (is_hub_id(base) or _exists(base)):
        return SourceName(data)
    if not part:
        raise ConfigError(f"{data}: name a configuration (ID:NAME) or a folder (ID:FOLDER/) behind the colon")
    if not part.endswith("/"):
        return SourceName(base, config=part)
    folder = PurePosixPath(part)
    if folder.is_absolute() or ".." in folder.parts or "\\" in part:
        raise ConfigError(
            f"{data}: the folder behind the colon must be inside the data set; leave out .. and /"
        )
    return SourceName(base, folder=str(folder))


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError):
        return False


def load_hub(source: SourceName, split: str | None) -> Any:
    """A data set of the hub.

    Raises:
        DataError: it cannot be loaded.
    """
    import datasets

    load: Any = datasets.load_dataset
    try:
        # Data sets with a loading script are refused by the library: no remote code is ever run.
        return load(source.base, split=split, **source.arguments())
    except Exception as error:  # network, hub, and reader errors of many classes
        raise DataError(
            f"{source.base}: no such local file, and the hub data set could not be loaded: {_reason(error)}; check "
            f"the name, the split and the connection{_about_parts(source)}"
        ) from error


def load_folder(path: Path, source: SourceName) -> Any:
    """A folder written by `save_to_disk`, or one in the layout of the hub.

    The second is meant where a part of it is named, or where its README.md lists configurations.

    Raises:
        DataError: it is neither, or broken.
    """
    import datasets

    if source.arguments() or _lists_configurations(path):
        load: Any = datasets.load_dataset
        try:
            return load(str(path), **source.arguments())
        except Exception as error:  # the library raises whatever its readers raise
            raise DataError(
                f"{path}: cannot be loaded as a data set in the layout of the hub: {_reason(error)}; it holds "
                f"{_held(path)}{_about_parts(source)}"
            ) from error
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(
            f"{path}: not a folder written by datasets' save_to_disk ({first_line(error)}); it holds "
            f"{_held(path)}; name one data file in it instead"
        ) from error


def _held(path: Path) -> str:
    try:
        return listed(sorted(entry.name for entry in path.iterdir())[:5])
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"


def _lists_configurations(path: Path) -> bool:
    """Whether the card of a folder says which files belong to which configuration."""
    try:
        card = (path / _CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    head = _FRONT_MATTER.match(card)
    return head is not None and re.search(r"^configs:", head[1], re.MULTILINE) is not None


def _reason(error: BaseException) -> str:
    """The first line of what the library says, what it names as available, and the cause behind its own words."""
    more = [line for line in str(error).strip().splitlines()[1:] if "available" in line.lower()]
    said = " ".join([first_line(error), *more[:1]])
    return said if error.__cause__ is None else f"{said} ({first_line(error.__cause__)})"


def _about_parts(source: SourceName) -> str:
    if source.config is not None:
        return f"; a folder of it, not a configuration, is written {source.base}:{source.config}/"
    if source.folder is not None:
        return f"; a configuration of it, not a folder, is written {source.base}:{source.folder}"
    return f"; of several configurations one is written {source.base}:NAME"
