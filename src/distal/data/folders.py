"""Where what can be computed again is kept."""

from __future__ import annotations

from distal.caching.folder import default_cache_dir

__all__ = ["default_cache_dir"]
