"""What `distal cache` shows: entries, damage and removals, as tables for people and JSON for machines."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distal.caching import Damage, Entry, Removal, check_entries, default_cache_dir, list_entries
from distal.errors import CacheError, ConfigError
from distal.progress import follow
from distal.workflow.storage import readable_size

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "cache_folder",
    "duration",
    "entries_json",
    "entries_table",
    "removal_json",
    "verification_json",
    "verify_cache",
]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def cache_folder(named: Path | None) -> Path:
    """The folder meant.

    Raises:
        CacheError: a folder that the user named does not exist, or is a file.
    """
    folder = default_cache_dir() if named is None else named
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"the cache {folder} is a file; name a folder with --cache-dir or DISTAL_CACHE")
    if named is not None and not folder.exists():
        raise CacheError(f"there is no cache folder {folder}; check --cache-dir")
    return folder


def duration(text: str) -> float:
    """Seconds of a duration such as `30d`, `12h` or `2w`; days where no unit is given.

    Raises:
        ConfigError: it is none.

    Examples:
        >>> duration("12h"), duration("2")
        (43200.0, 172800.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    if found is None or not math.isfinite(float(found[1])):
        raise ConfigError(f"older_than={text!r}: expected a number with s, m, h, d or w, as in 30d")
    return float(found[1]) * _SECONDS[found[2] or "d"]


def verify_cache(folder: Path, *, progress: str | None) -> tuple[list[Entry], list[Damage]]:
    """Reads every byte of a cache.

    Args:
        folder: the cache.
        progress: what the progress bar says, should it take longer than a moment; None for silence.

    Returns:
        The entries, and every file that is damaged.
    """
    entries = list_entries(folder)
    checked = follow(
        check_entries(entries),
        progress if entries else None,
        total=sum(entry.size for entry in entries),
        work=lambda pair: pair[0].size,
        patience=1.0,
    )
    return entries, [damage for _, damages in checked for damage in damages]


def entries_json(folder: Path, entries: Sequence[Entry]) -> str:
    """Entries as one JSON document."""
    return _document("distal.cache_list/1", folder, entries=[_entry(entry) for entry in entries])


def verification_json(folder: Path, entries: Sequence[Entry], damages: Sequence[Damage]) -> str:
    """The result of a check as one JSON document."""
    return _document(
        "distal.cache_check/1",
        folder,
        entries=len(entries),
        bytes=sum(entry.size for entry in entries),
        damaged=[_damage(damage) for damage in damages],
    )


def removal_json(folder: Path, removal: Removal, *, dry_run: bool) -> str:
    """A removal as one JSON document."""
    return _document(
        "distal.cache_prune/1",
        folder,
        dry_run=dry_run,
        entries=[_entry(entry) for entry in removal.entries],
        files=[_damage(damage) for damage in removal.files],
        in_use=[str(entry.path) for entry in removal.in_use],
        left=[str(path) for path in removal.left],
        bytes=removal.freed,
    )


def entries_table(entries: Sequence[Entry], *, now: float | None = None) -> Table:
    """Entries as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    now = time.time() if now is None else now
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "entry", "state", "rows", "size", "last used"):
        table.add_column(column, justify="right" if column in ("rows", "size") else "left", no_wrap=True)
    table.add_column("of", overflow="fold", min_width=12)
    for entry in entries:
        rows = "" if entry.rows is None else f"{entry.rows:,}"
        if entry.rows_wanted not in (None, entry.rows):
            rows += f" of {entry.rows_wanted:,}"
        of = ", ".join(str(entry.about[key]) for key in ("model", "data") if entry.about.get(key))
        shown = (entry.path.name[:12], entry.state, rows, readable_size(entry.size), _ago(now - entry.used))
        table.add_row(entry.kind, *shown, Text(_harmless(of)))
    return table


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "path": str(entry.path),
        "state": entry.state,
        "rows": entry.rows,
        "rows_wanted": entry.rows_wanted,
        "bytes": entry.size,
        "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
        "about": dict(entry.about),
    }


def _damage(damage: Damage) -> dict[str, Any]:
    return {"path": str(damage.path), "reason": damage.reason, "rows": damage.rows}


def _document(schema: str, folder: Path, **content: Any) -> str:
    return json.dumps({"schema": schema, "folder": str(folder), **content}, indent=2, ensure_ascii=False)


def _harmless(name: str) -> str:
    """A name out of a file, on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in name)


def _ago(seconds: float) -> str:
    """How long ago, in a unit that suits it.

    Examples:
        >>> _ago(3 * 86400), _ago(70), _ago(-5)
        ('3 days ago', '1 minute ago', 'now')
    """
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // size)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "now"
