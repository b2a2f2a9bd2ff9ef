"""Where the cache is."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["HOW_TO_MOVE_IT", "default_cache_dir"]

HOW_TO_MOVE_IT = (
    "name another folder with --cache-dir (align: --reference-cache-dir; from Python: cache_dir, reference_cache_dir) "
    "or with the environment variable DISTAL_CACHE"
)
"""How a user chooses another folder, for messages."""


def default_cache_dir() -> Path:
    """`$DISTAL_CACHE`, or `distal` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if named := os.environ.get("DISTAL_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "distal"
