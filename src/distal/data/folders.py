"""Where what can be computed again is kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_cache_dir"]


def default_cache_dir() -> Path:
    """`$DISTAL_CACHE`, or `distal` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if named := os.environ.get("DISTAL_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "distal"
