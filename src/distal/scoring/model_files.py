"""Folders and files of models: found, readable, safetensors, and refused with a reason that a user can act on."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from distal.errors import ModelError

__all__ = ["check_files", "check_readable", "locate", "translated"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def locate(name_or_path: str | Path, what: str) -> str:
    """The folder or hub id meant, or a `ModelError` for a local path that does not exist."""
    name = str(name_or_path)
    if not name:
        raise ModelError(
            f"the name of the {what} is empty; give a local folder or a hub id such as owner/name."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        check_readable(path)
        return str(path)
    if path.is_file():
        raise ModelError(
            f"{what} {name} is a file; give the folder that holds config.json and the safetensors files."
        )
    near = _nearest_folders(path)
    if _HUB_ID.fullmatch(name) and not near:
        return name
    hint = (
        f" Did you mean {' or '.join(near)}?"
        if near
        else " Check the path, or give a hub id such as owner/name."
    )
    raise ModelError(f"no such {what} folder: {name}.{hint}")


def check_readable(folder: Path) -> None:
    """Refuses a folder, or model files in it, that this user may not read.

    The loaders would say that such a file does not exist.
    """
    try:
        files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")]
        closed = next((path for path in files if path.is_file() and not os.access(path, os.R_OK)), None)
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror}; check its rights.") from error
    if closed is not None:
        raise ModelError(f"{closed} cannot be read: permission denied; check its rights.")


def _nearest_folders(path: Path) -> list[str]:
    """Existing folders beside `path` whose names resemble it."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return []
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, names, 3, 0.6)]


def check_files(source: str, wanted: tuple[str, ...], pickles: tuple[str, ...], remedy: str) -> None:
    """Refuses a local folder without safetensors files."""
    folder = Path(source)
    if not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in wanted):
        return
    found = sorted(path.name for pattern in pickles for path in folder.glob(pattern))
    if found:
        raise ModelError(
            f"{source} holds its weights as Python pickles ({', '.join(found[:3])}), which can run any code "
            "when opened; Distal reads safetensors only. If you trust the file, load it once with "
            f"transformers and write it again with {remedy}."
        )
    listing = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise ModelError(
        f"{source} holds no weights ({' or '.join(wanted)}); found {listing}. Is it the right folder?"
    )


@contextmanager
def translated(what: str, source: str) -> Generator[None]:
    """Turns the loaders' exceptions into one `ModelError`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise ModelError(
            f"a safetensors file of {source} is damaged ({error}); copy or download it again."
        ) from error
    except (
        OSError,
        ValueError,
        RuntimeError,
        ImportError,
        KeyError,
        TypeError,
        json.JSONDecodeError,
    ) as error:
        if isinstance(error, ModelError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "folder" if Path(source).is_dir() else "hub id"
        hint = (
            ""
            if where == "folder"
            else (
                " It is no local folder either; check the spelling, the network, and for private models `hf "
                "auth login`."
            )
        )
        raise ModelError(
            f"cannot load the {what} from {where} {source}: {_first_lines(error)}{hint}"
        ) from error


def _first_lines(error: BaseException) -> str:
    """The first sentence of an exception that says something, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = f"missing key {lines[0]}" if isinstance(error, KeyError) else " ".join(lines[:2])
    text = text if len(text) <= 300 else text[:300] + " ..."
    return text if text.endswith((".", "!", "?")) else text + "."
