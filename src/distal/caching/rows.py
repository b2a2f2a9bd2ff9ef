"""Tokenised rows as `distal cache` sees them; `distal.data` writes and reads them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distal.caching.kinds import CacheKind, Damage, Entry, EntryState
from distal.caching.locks import PartLocks

__all__ = ["ABOUT", "ROWS", "RowsKind", "about_digest"]

ROWS, ABOUT = "rows.arrow", "about.json"
_ENTRY = re.compile(r"(?:\.writing-)?([0-9a-f]{64})(?:-\d+-[0-9a-f]{8})?")


def about_digest(known: Mapping[str, Any], rows: str, key: str) -> str:
    """The checksum in `about.json`: over what is known of the rows, the digest of their file, and the entry's name."""
    content = json.dumps([known, rows, key], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class RowsKind(CacheKind):
    """Tokenised rows of one source under one tokenizer: a folder of two files."""

    name = "rows"
    in_one_piece = True

    def owns(self, name: str, *, folder: bool) -> bool:
        """See `CacheKind`."""
        return folder and _ENTRY.fullmatch(name) is not None

    def owns_part(self, name: str) -> bool:
        """See `CacheKind`."""
        return name in (ROWS, ABOUT)

    def in_use(self, path: Path) -> bool:
        """See `CacheKind`."""
        found = _ENTRY.fullmatch(path.name)
        return found is not None and PartLocks.in_use(path.parent / "locks" / found[1])

    def describe(self, path: Path) -> Entry:
        """See `CacheKind`."""
        parts = {part.name: part.lstat() for part in path.iterdir()}
        state: EntryState = "partial" if path.name.startswith(".") else "complete"
        rows: int | None = None
        about: dict[str, str] = {}
        if state == "complete":
            try:
                known: dict[str, Any] = json.loads((path / ABOUT).read_bytes())["known"]
                rows = int(known["n_kept"]) * (2 if known["kind"] == "paired" else 1)
                about = {"data": str(known["name"])}
            except (OSError, ValueError, KeyError, TypeError):
                state = "damaged"
        used = max((stat.st_mtime for stat in parts.values()), default=path.lstat().st_mtime)
        size = sum(stat.st_size for stat in parts.values())
        return Entry(self.name, path, state, rows, rows, size, used, about)

    def check(self, path: Path) -> list[Damage]:
        """See `CacheKind`."""
        if path.name.startswith("."):
            return []  # nothing reads it
        try:
            about = json.loads((path / ABOUT).read_bytes())
            if about["digest"] != about_digest(about["known"], about["rows"], path.name):
                return [Damage(path / ABOUT, "its content does not have the checksum that it carries")]
            wanted: str = about["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [Damage(path / ABOUT, f"it cannot be read ({type(error).__name__})")]
        try:
            with (path / ROWS).open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == wanted
        except OSError as error:
            return [Damage(path / ROWS, f"it cannot be read ({error.strerror})")]
        return [] if intact else [Damage(path / ROWS, f"it does not have the checksum in {ABOUT}")]
