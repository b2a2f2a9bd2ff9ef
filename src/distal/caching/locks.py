"""Locks on parts of an entry, which the system itself drops when their holder dies, however it dies.

They save work and nothing else: whatever is written in the cache is written whole under the name of its content, so
that two processes that compute the same do no harm. Where the system or the file system has no locks, all is granted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["PartLocks"]

_PRESENCE = 2**40
"""The byte on which every user of an entry holds a shared lock; bytes below stand for parts."""


class PartLocks:
    """Exclusive locks on numbered parts of an entry, and a shared one on the entry while it is in use.

    A lock belongs to the process. It is held through an open file and ends with the process at the latest.

    Args:
        path: the lock file, which is made.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._lock(_PRESENCE, shared=True)

    def acquire(self, part: int) -> bool:
        """Take the lock of a part, without waiting; False where another process holds it."""
        return self._lock(part)

    def release(self, part: int) -> None:
        """Let go of the lock of a part, if that has not happened yet."""
        if fcntl is not None and self._descriptor >= 0:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, part)

    def close(self) -> None:
        """Let go of everything."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @staticmethod
    def in_use(path: Path) -> bool:
        """Whether another process has the entry with this lock file open."""
        if fcntl is None:
            return False
        try:
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 0)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def _lock(self, part: int, *, shared: bool = False) -> bool:
        if fcntl is None:
            return True
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, 1, part)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # no locks on this file system
            return True
        return True
