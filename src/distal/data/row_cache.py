"""Tokenised rows kept on disk under the digest of all that they depend on.

An entry is a folder of two files, `rows.arrow` and `about.json`, written under another name and renamed when both are
complete: it is there as a whole or not at all. The digest of the rows is checked each time that an entry is opened.
While one process makes an entry, others that want the same wait for it; the system drops that lock when its holder
ends, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from distal.data.identity import file_digest
from distal.data.store import RowStore
from distal.errors import CacheError, OutputError

try:
    import fcntl
except ImportError:  # Windows: two processes may do the same work, and one of the equal entries stays
    fcntl = None

__all__ = ["RowCache"]

logger = logging.getLogger(__name__)

_ROWS, _ABOUT = "rows.arrow", "about.json"


class RowCache:
    """Tokenised rows by key in the folder `rows` of a cache folder.

    Args:
        folder: the cache folder, made where it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser() / "rows"

    def path(self, key: str) -> Path:
        """Folder of an entry, present or not."""
        return self.folder / key

    def check_writable(self) -> None:
        """Find out before hours of work whether an entry could be written.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise OutputError(
                f"cannot keep tokenised rows in {self.folder}: {error.strerror or error}; name another folder in the "
                "environment variable DISTAL_CACHE, or keep none (dataset_cache: false)"
            ) from error

    def fetch(
        self,
        key: str,
        make: Callable[[Path], Mapping[str, Any]],
        *,
        keep: Callable[[], bool] = lambda: True,
    ) -> tuple[RowStore, dict[str, Any]]:
        """The rows of a key, made where there are none or damaged ones.

        Args:
            key: digest of all that the rows depend on.
            make: writes the rows into the file that it is given, and says what is to be known of them (fit for JSON).
            keep: asked afterwards whether the rows are still those of the key.

        Returns:
            The rows, and what is known of them.
        """
        with self._alone(key):
            found = self._usable(key)
            return self._made(key, make, keep) if found is None else found

    def load(self, key: str) -> tuple[RowStore, dict[str, Any]] | None:
        """An entry, or None where there is none.

        Raises:
            CacheError: it is damaged.
        """
        path = self.path(key)
        if not path.is_dir():
            return None
        try:
            about = json.loads((path / _ABOUT).read_text("utf-8"))
            if about["digest"] != _digest(about["known"], about["rows"], key):
                raise ValueError(f"{_ABOUT} belongs to something else")
            if file_digest(path / _ROWS) != about["rows"]:
                raise ValueError(f"the checksum of {_ROWS} differs")
            return RowStore.open(path / _ROWS), about["known"]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise CacheError(
                f"the tokenised rows in {path} are damaged ({error}); delete the folder to make them again"
            ) from error

    def _usable(self, key: str) -> tuple[RowStore, dict[str, Any]] | None:
        """An entry, or None where there is none that can be used; a damaged one is taken away."""
        try:
            return self.load(key)
        except CacheError as error:
            logger.warning("%s. Tokenising again.", error)
            aside = tempfile.mkdtemp(dir=self.folder, prefix=".damaged-")
            with suppress(OSError):
                os.rename(self.path(key), Path(aside) / key)
            shutil.rmtree(aside, ignore_errors=True)
            return None

    def _made(
        self, key: str, make: Callable[[Path], Mapping[str, Any]], keep: Callable[[], bool]
    ) -> tuple[RowStore, dict[str, Any]]:
        # The name holds the process: what others have left under this key is nobody's, for they would hold the lock.
        folder = self.folder / f".writing-{key}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            folder.mkdir()
            known = json.loads(json.dumps(make(folder / _ROWS)))
            rows = file_digest(folder / _ROWS)
            about = {"digest": _digest(known, rows, key), "rows": rows, "known": known}
            (folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            if not keep():
                return RowStore.open(folder / _ROWS, named=False), known
            try:
                os.rename(folder, self.path(key))
            except OSError:  # another process was faster, where there are no locks
                if not self.path(key).is_dir():
                    raise
            return RowStore.open(self.path(key) / _ROWS), known
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"cannot keep tokenised rows in {self.folder}: {error.strerror or error}; make room there, name "
                "another folder in the environment variable DISTAL_CACHE, or keep none (dataset_cache: false)"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _alone(self, key: str) -> Generator[None]:
        """One process at a time; without effect where the system or the file system has no locks."""
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / key).open("w") as file:
            if self._locked(file, key):
                for left in self.folder.glob(f".writing-{key}-*"):
                    if not left.name.startswith(f".writing-{key}-{os.getpid()}-"):
                        shutil.rmtree(left, ignore_errors=True)
            yield

    def _locked(self, file: IO[str], key: str) -> bool:
        if fcntl is None:
            return False
        # Not `flock`, whose locks the processes that tokenise would inherit and keep when this one is killed.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            logger.warning("another process is tokenising the same rows (%s): waiting for it", self.path(key))
            with suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_EX)
                return True
            return False
        except OSError:
            return False
        return True


def _digest(known: Mapping[str, Any], rows: str, key: str) -> str:
    content = json.dumps([known, rows, key], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
