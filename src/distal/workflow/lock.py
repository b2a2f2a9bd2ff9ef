"""A lock against two processes in one folder, which the system itself drops when its holder dies."""

from __future__ import annotations

import os
from pathlib import Path

from distal.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: without advisory locks the state file alone guards the folder
    fcntl = None

__all__ = ["FolderLock"]


class FolderLock:
    """An exclusive lock, held through an open file.

    Args:
        path: the lock file.
        option: what names the folder on the command line, for messages.
    """

    def __init__(self, path: Path, *, option: str = "--output-dir") -> None:
        self.path = path
        self.option = option
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            OutputError: another process holds it.
        """
        if fcntl is None:
            return
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 64).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise OutputError(
                    f"output folder {self.path.parent} is in use by another process (id {holder}); nothing "
                    f"was touched. Wait for it or stop it, or name another folder with {self.option}."
                ) from None
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # the former holder removed the file between our open and our lock
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Drops the lock and its file; does nothing where it is not held."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one that others would open."""
        try:
            return os.fstat(descriptor).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False
