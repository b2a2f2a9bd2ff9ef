"""A content-addressed store of scores on disk.

The key is a hash of all that a score depends on: the weights, the token rows (which already carry tokenizer,
template and truncation), the arithmetic, and the version of our own code. So an entry never goes stale; it only
stops being asked for. Entries are written whole to a temporary file and renamed: a reader sees all or nothing, and
two runs that compute the same entry at once write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from distal.data.folders import default_cache_dir
from distal.errors import CacheError, OutputError

__all__ = ["SCORING_VERSION", "ScoreCache", "default_cache_dir"]

SCORING_VERSION = 1
"""Raised whenever a change of code changes scores by more than rounding."""


class ScoreCache:
    """Scores by key in a folder; one safetensors file per entry.

    Example:
        >>> import numpy as np, tempfile
        >>> cache = ScoreCache(tempfile.mkdtemp())
        >>> key = cache.key(weights="w", rows="r")
        >>> cache.load(key, n_rows=2) is None
        True
        >>> cache.save(key, np.array([-1.5, -2.0], dtype=np.float32), {"model": "m"})
        >>> cache.load(key, n_rows=2).tolist()
        [-1.5, -2.0]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "scores"

    @staticmethod
    def key(**parts: str) -> str:
        """Hash of everything that the scores depend on."""
        content = json.dumps({"scoring_version": SCORING_VERSION, **parts}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def path(self, key: str) -> Path:
        """File of an entry, present or not."""
        return self.folder / f"{key}.safetensors"

    def load(self, key: str, *, n_rows: int) -> np.ndarray | None:
        """(n_rows,) scores, or None where there is no entry.

        Raises:
            CacheError: the entry is damaged (it does not parse, has another length, or another checksum).
        """
        path = self.path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as stored:
                scores = np.asarray(stored.get_tensor("scores"))
                checksum = (stored.metadata() or {}).get("sha256")
        except (SafetensorError, OSError, ValueError) as error:
            raise CacheError(
                f"cached scores {path} cannot be read ({error}); delete the file to recompute"
            ) from error
        if scores.shape != (n_rows,) or checksum != _checksum(scores):
            raise CacheError(
                f"cached scores {path} are damaged: shape {scores.shape}, expected ({n_rows},), or the checksum "
                "differs; delete the file to recompute"
            )
        return scores

    def save(self, key: str, scores: np.ndarray, about: Mapping[str, str]) -> None:
        """Write an entry; `about` is kept for people who look at the file.

        Raises:
            OutputError: the folder cannot be written.
        """
        with self._temporary() as temporary:
            save_file({"scores": scores}, temporary, metadata={**about, "sha256": _checksum(scores)})
            os.replace(temporary, self.path(key))

    def check_writable(self) -> None:
        """Find out before hours of scoring whether an entry could be written.

        Raises:
            OutputError: the folder cannot be written.
        """
        with self._temporary():
            pass

    @contextmanager
    def _temporary(self) -> Generator[Path]:
        """A file beside the entries, gone at the end unless it was renamed."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=".writing-")
            os.close(handle)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"cannot write reference scores to {self.folder} ({error}); free disk space there, or choose another "
                "folder with reference_cache_dir or the environment variable DISTAL_CACHE"
            ) from error


def _checksum(scores: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(scores).tobytes()).hexdigest()
