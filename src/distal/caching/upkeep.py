"""Looking after the cache: what is in it, whether it is whole, and what may go.

Nothing here follows a link, and nothing is removed whose name is not one that a kind of entry writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distal.caching.files import is_temporary_of
from distal.caching.kinds import CacheKind, Damage, Entry
from distal.caching.rows import RowsKind
from distal.caching.score_kind import ScoresKind
from distal.errors import CacheError, OutputError

__all__ = ["KINDS", "Choice", "Removal", "check_entries", "list_entries", "plan_removal", "remove"]

KINDS: dict[str, CacheKind] = {kind.name: kind for kind in (ScoresKind(), RowsKind())}
"""Every kind of entry, by the name of its subfolder."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which entries are to go; entries that no version of Distal asks for any more always are.

    Attributes:
        partial: those that are not complete.
        damaged: damaged files, and the rest of their entries where it is of no use without them. (Half files of
            processes that were killed always go, where nobody works on their entry.)
        everything: all of them.
        older_than: of those chosen, only what was not used for so many seconds; on its own, of all.
    """

    partial: bool = False
    damaged: bool = False
    everything: bool = False
    older_than: float | None = None

    def takes(self, entry: Entry, now: float) -> bool:
        """Whether an entry goes as a whole."""
        if self.older_than is not None and now - entry.used < self.older_than:
            return False
        if self.everything or entry.state == "obsolete":
            return True
        if entry.state == "unknown":
            return False
        by_age_alone = self.older_than is not None and not (self.partial or self.damaged)
        return by_age_alone or (self.partial and entry.state == "partial")


@dataclass(slots=True)
class Removal:
    """What is to be removed, or was.

    Attributes:
        entries: whole entries.
        files: damaged and half files of entries that stay, each with what is wrong with it.
        in_use: entries that were chosen but stay, because another process works on them.
        left: files that are not Distal's, in entries that were removed otherwise.
        freed: bytes.
    """

    entries: list[Entry] = field(default_factory=list[Entry])
    files: list[Damage] = field(default_factory=list[Damage])
    in_use: list[Entry] = field(default_factory=list[Entry])
    left: list[Path] = field(default_factory=list[Path])
    freed: int = 0


def list_entries(folder: Path, kinds: Iterable[CacheKind] = tuple(KINDS.values())) -> list[Entry]:
    """The entries of a cache, the last used ones first.

    Raises:
        CacheError: the folder cannot be read.
    """
    found: list[Entry] = []
    for kind in kinds:
        for path in _own(folder, kind):
            try:
                found.append(kind.describe(path))
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                raise CacheError(f"cannot read {path} ({error.strerror}); make it readable") from error
    return sorted(found, key=lambda entry: (-entry.used, str(entry.path)))


def check_entries(entries: Iterable[Entry]) -> Iterator[tuple[Entry, list[Damage]]]:
    """Reads every byte of entries; each with the damage found, as they come."""
    for entry in entries:
        try:
            yield entry, KINDS[entry.kind].check(entry.path)
        except FileNotFoundError:
            continue  # removed meanwhile


def plan_removal(folder: Path, choice: Choice, *, now: float | None = None) -> Removal:
    """What `remove` would remove. Nothing is touched."""
    now = time.time() if now is None else now
    plan, staying = Removal(), list[Entry]()

    def old_enough(entry: Entry) -> bool:
        return choice.older_than is None or now - entry.used >= choice.older_than

    for entry in list_entries(folder):
        if not choice.takes(entry, now):
            staying.append(entry)
        elif KINDS[entry.kind].in_use(entry.path):
            plan.in_use.append(entry)
        else:
            plan.entries.append(entry)
            plan.freed += entry.size
    staying = [entry for entry in staying if entry.state != "unknown" and old_enough(entry)]
    for entry in staying:
        plan.files += _half_files(entry)
    if choice.damaged:
        for entry, damages in check_entries(staying):
            if damages and KINDS[entry.kind].in_one_piece:
                plan.entries.append(entry)
                plan.freed += entry.size
            else:
                plan.files += damages
    plan.freed += sum(_size(damage.path) for damage in plan.files)
    return plan


def remove(plan: Removal) -> Removal:
    """Removes what a plan holds.

    Returns:
        What was removed, and what was left for a reason.

    Raises:
        OutputError: something cannot be removed.
    """
    done = Removal(in_use=list(plan.in_use))
    for entry in plan.entries:
        kind = KINDS[entry.kind]
        if kind.in_use(entry.path):  # since the plan was made
            done.in_use.append(entry)
            continue
        freed, left = _remove_entry(kind, entry.path)
        done.freed += freed
        done.left += left
        done.entries.append(entry)
    for damage in plan.files:
        done.freed += _remove_file(damage.path)
        done.files.append(damage)
    return done


def _half_files(entry: Entry) -> list[Damage]:
    """What processes left behind that were killed while they wrote a file of the entry."""
    kind = KINDS[entry.kind]
    if not entry.path.is_dir() or kind.in_use(entry.path):
        return []
    return [
        Damage(path, "it was not written to its end")
        for path in sorted(entry.path.iterdir())
        if is_temporary_of(path.name)
        and kind.owns_part(path.name)
        and path.is_file()
        and not path.is_symlink()
    ]


def _own(folder: Path, kind: CacheKind) -> Sequence[Path]:
    """Paths in the subfolder of a kind that are its own; links are nobody's."""
    place = folder / kind.name
    try:
        if place.is_symlink():
            return []
        with os.scandir(place) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if not entry.is_symlink()
                and kind.owns(entry.name, folder=entry.is_dir(follow_symlinks=False))
            )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"cannot read the cache {place} ({error.strerror}); name another folder") from error


def _remove_entry(kind: CacheKind, path: Path) -> tuple[int, list[Path]]:
    """Removes an entry; bytes that became free, and what is not ours and stays."""
    if not path.is_dir() or path.is_symlink():
        return _remove_file(path), []
    with os.scandir(path) as entries:
        parts = list(entries)
    own = [part.name for part in parts if kind.owns_part(part.name) and part.is_file(follow_symlinks=False)]
    left = [path / part.name for part in parts if part.name not in own]
    freed = sum(_remove_file(path / name) for name in own)
    if not left:
        try:
            path.rmdir()
        except OSError as error:
            raise OutputError(
                f"cannot remove {path} ({error.strerror}); is another process using it?"
            ) from error
    return freed, left


def _remove_file(path: Path) -> int:
    """Removes a file that may be gone already; bytes that became free."""
    size = _size(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path} ({error.strerror}); make its folder writable") from error
    return size


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
