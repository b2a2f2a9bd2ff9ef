"""Kinds of cache entries, as the verbs of `distal cache` see them.

The cache folder has a subfolder for each kind. A kind says which names in it are its own, describes an entry without
reading all of it, and checks every byte of one. Listing, choosing and removing are the same for all kinds
(`distal.caching.upkeep`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

__all__ = ["CacheKind", "Damage", "Entry", "EntryState"]

EntryState = Literal["complete", "partial", "damaged", "obsolete", "unknown"]
"""`obsolete`: of an earlier version, so that nothing asks for it any more; `unknown`: of a later one, perhaps."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What can be said of an entry without reading all of it.

    Attributes:
        kind: name of its kind.
        path: its folder or file.
        state: `damaged` only where that shows without reading everything.
        rows: rows it holds; None where that is unknown.
        rows_wanted: rows it will hold when it is complete.
        size: bytes on the disk.
        used: when it was last read or written, seconds since the epoch.
        about: what it is of, for people: model, data.
    """

    kind: str
    path: Path
    state: EntryState
    rows: int | None
    rows_wanted: int | None
    size: int
    used: float
    about: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of the cache that is not what it was written as.

    Attributes:
        path: the file.
        reason: what is wrong with it.
        rows: first and last row that it holds; None where it holds none, or nobody knows.
    """

    path: Path
    reason: str
    rows: tuple[int, int] | None = None

    def __str__(self) -> str:
        held = "" if self.rows is None else f" (rows {self.rows[0]} to {self.rows[1]})"
        return f"{self.path}{held}: {self.reason}"


class CacheKind(ABC):
    """A kind of entry: a class with a name, which is that of its subfolder, and these methods."""

    name: ClassVar[str]
    in_one_piece: ClassVar[bool] = False
    """Whether an entry is of no use where one of its files is damaged."""

    @abstractmethod
    def owns(self, name: str, *, folder: bool) -> bool:
        """Whether a name in the subfolder is that of an entry, or of something left behind in writing one."""

    @abstractmethod
    def describe(self, path: Path) -> Entry:
        """What can be said of an entry quickly."""

    @abstractmethod
    def check(self, path: Path) -> list[Damage]:
        """Reads all of an entry and names every file that is damaged."""

    def owns_part(self, name: str) -> bool:
        """Whether a name within the folder of an entry is one that this kind writes."""
        return False

    def in_use(self, path: Path) -> bool:
        """Whether another process works on the entry at this moment."""
        return False
