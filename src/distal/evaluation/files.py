"""Writing result files; see `distal.caching.files`."""

from __future__ import annotations

from distal.caching.files import write_atomically

__all__ = ["write_atomically"]
