"""The cache on disk: entries addressed by their content, checked whenever they are read, and looked after."""

from __future__ import annotations

from distal.caching.files import check_writable, replacing, write_atomically
from distal.caching.folder import default_cache_dir
from distal.caching.kinds import CacheKind, Damage, Entry, EntryState
from distal.caching.scores import SCORING_VERSION, ScoreCache, ScoreEntry
from distal.caching.upkeep import KINDS, Choice, Removal, check_entries, list_entries, plan_removal, remove

__all__ = [
    "KINDS",
    "SCORING_VERSION",
    "CacheKind",
    "Choice",
    "Damage",
    "Entry",
    "EntryState",
    "Removal",
    "ScoreCache",
    "ScoreEntry",
    "check_entries",
    "check_writable",
    "default_cache_dir",
    "list_entries",
    "plan_removal",
    "remove",
    "replacing",
    "write_atomically",
]
