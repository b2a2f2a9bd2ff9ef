"""The demo's output folder: an earlier demo is moved aside, anything else is left alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distal.errors import OutputError
from distal.evaluation.files import write_atomically
from distal.workflow.lock import FolderLock

__all__ = ["STATE_FILE", "DemoFolder"]

STATE_FILE = "demo.json"
_LOCK_FILE = ".distal-demo.lock"


class DemoFolder:
    """An output folder with a record of how its demo stands: running, interrupted, failed or finished.

    Args:
        path: the folder.
        settings: what the demo was started with, for the record.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path = Path(path)
        self.moved_to: Path | None = None
        self._record: dict[str, Any] = {"started": _now(), "process": os.getpid(), **settings}

    @contextmanager
    def held(self) -> Generator[DemoFolder]:
        """Claims the folder, and records how the demo in it ended.

        Raises:
            OutputError: the folder holds something other than a demo, is in use, or cannot be written to.
        """
        lock = self._claim()
        try:
            self._state("running")
            yield self
        except KeyboardInterrupt:
            self._state("interrupted")
            raise
        except BaseException as error:
            self._state("failed", error=f"{type(error).__name__}: {error}")
            raise
        else:
            self._state("finished")
        finally:
            lock.release()

    def _claim(self) -> FolderLock:
        """Moves an earlier demo aside, and locks a fresh folder."""
        lock = FolderLock(self.path / _LOCK_FILE)
        try:
            if self.path.exists():
                self._refuse_foreign()
                lock.acquire()  # by another demo that runs in it, this is refused
                lock.release()
                self._move_aside()
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot use {self.path} for the demo: {error.strerror or error}. Name a folder that "
                "you may write to (--output)."
            ) from error
        return lock

    def _refuse_foreign(self) -> None:
        if not self.path.is_dir():
            raise OutputError(
                f"{self.path} is a file, and the demo writes a folder: name another (--output)."
            )
        found = sorted(entry.name for entry in self.path.iterdir())
        if found and STATE_FILE not in found:
            shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
            raise OutputError(
                f"{self.path} holds something other than a demo (found {shown}); nothing was touched. Name "
                "a new or empty folder (--output)."
            )

    def _move_aside(self) -> None:
        """Renames a folder with an earlier demo to `NAME-1`, `NAME-2`, ..., the first that is free."""
        if not any(self.path.iterdir()):
            return
        number = 1
        while (target := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        shutil.move(self.path, target)
        self.moved_to = target

    def _state(self, state: str, **more: Any) -> None:
        self._record |= {"state": state, "updated": _now(), **more}
        write_atomically(self.path / STATE_FILE, (json.dumps(self._record, indent=2) + "\n").encode())


def _now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
