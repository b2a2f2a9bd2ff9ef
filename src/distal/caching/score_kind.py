"""Cached scores as `distal cache` sees them."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

from distal.caching.files import is_temporary_of
from distal.caching.kinds import CacheKind, Damage, Entry, EntryState
from distal.caching.locks import PartLocks
from distal.caching.scores import LOCK, MANIFEST, SCHEMA, SCORING_VERSION, SHARD_NAME, ShardFile
from distal.caching.sealed import unseal

__all__ = ["ScoresKind"]

_KEY = re.compile(r"[0-9a-f]{64}")
_SINGLE_FILE = re.compile(r"[0-9a-f]{64}\.safetensors|\.writing-\w{8}")
"""Entries of the first version, and what it left behind where it was killed."""


class ScoresKind(CacheKind):
    """Scores of one data set under one model, in shards."""

    name = "scores"

    def owns(self, name: str, *, folder: bool) -> bool:
        """See `CacheKind`."""
        return bool((_KEY if folder else _SINGLE_FILE).fullmatch(name))

    def owns_part(self, name: str) -> bool:
        """See `CacheKind`."""
        name = is_temporary_of(name) or name
        return name in (MANIFEST, LOCK) or bool(SHARD_NAME.fullmatch(name))

    def in_use(self, path: Path) -> bool:
        """See `CacheKind`."""
        return PartLocks.in_use(path / LOCK)

    def describe(self, path: Path) -> Entry:
        """See `CacheKind`."""
        if not path.is_dir():
            stat = path.lstat()
            return Entry(self.name, path, "obsolete", None, None, stat.st_size, stat.st_mtime)
        parts = {part.name: part.stat(follow_symlinks=False) for part in os.scandir(path)}
        numbers = {int(found[1]) for found in map(SHARD_NAME.fullmatch, parts) if found}
        state, record = _manifest(path)
        rows = wanted = None
        if "bounds" in record:
            sizes = [stop - start for start, stop in itertools.pairwise(record["bounds"])]
            rows, wanted = sum(size for number, size in enumerate(sizes) if number in numbers), sum(sizes)
            state = "partial" if state == "complete" and rows < wanted else state
        used = max((parts[name].st_mtime for name in parts), default=path.lstat().st_mtime)
        size = sum(stat.st_size for stat in parts.values())
        return Entry(self.name, path, state, rows, wanted, size, used, record.get("about", {}))

    def check(self, path: Path) -> list[Damage]:
        """See `CacheKind`."""
        if not path.is_dir():
            return []  # nothing reads it any more
        state, record = _manifest(path)
        if state in ("obsolete", "unknown"):
            return []
        found = [Damage(path / MANIFEST, record["reason"])] if state == "damaged" else []
        bounds: list[int] = record.get("bounds", [])
        for part in sorted(path.iterdir()):
            named = SHARD_NAME.fullmatch(part.name)
            if named is None:
                continue
            number = int(named[1])
            wanted = None
            if number + 1 < len(bounds):
                wanted = ShardFile(number, bounds[number], bounds[number + 1])
            reason = _what_is_wrong(part, path.name, named[2], wanted)
            if reason is not None:
                rows = None if wanted is None else (wanted.start, wanted.stop - 1)
                found.append(Damage(part, reason, rows))
        return found


def _manifest(path: Path) -> tuple[EntryState, dict[str, Any]]:
    """State of an entry as far as its manifest tells (`complete` where that is in order), and what it says."""
    try:
        content = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        return "partial", {}  # its shards say themselves what they are, and it is written again
    except OSError as error:
        return "damaged", {"reason": f"it cannot be read ({error.strerror})"}
    try:
        record = unseal(content)
        if record["schema"] != SCHEMA:
            return "unknown", {"about": record.get("about", {})}
        if record["key"] != path.name:
            return "damaged", {"reason": "it belongs to another entry"}
        version = int(record["identity"]["scoring_version"])
    except (ValueError, KeyError, TypeError) as error:
        return ("unknown", {}) if _of_another_schema(content) else ("damaged", {"reason": str(error)})
    state: EntryState = "complete" if version == SCORING_VERSION else "obsolete"
    return ("unknown" if version > SCORING_VERSION else state), record


def _of_another_schema(content: bytes) -> bool:
    try:
        return re.fullmatch(r"distal\.scores/\d+", json.loads(content)["schema"]) is not None and (
            json.loads(content)["schema"] != SCHEMA
        )
    except (ValueError, KeyError, TypeError):
        return False


def _what_is_wrong(path: Path, key: str, digest: str, wanted: ShardFile | None) -> str | None:
    try:
        held, _ = ShardFile.decode(path.read_bytes(), key=key, digest=digest)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except ValueError as error:
        return str(error)
    if wanted is not None and held != wanted:
        return f"it holds rows {held.start} to {held.stop - 1} instead"
    return None
