"""The lock: exclusive between processes, free again when its holder is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distal.errors import OutputError
from distal.workflow.lock import FolderLock

HOLDER = """
import sys, time
from pathlib import Path
from distal.workflow.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_second_lock_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match=rf"in use by another process \(id {holder.pid}\)"):
            FolderLock(path).acquire()
        holder.send_signal(signal.SIGKILL)
    lock = FolderLock(path)  # the file is still there, the lock is not
    assert path.exists()
    lock.acquire()
    lock.release()
    assert not path.exists()


def test_release_gives_the_lock_back(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "lock"), FolderLock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(OutputError):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_release_without_lock_does_nothing(tmp_path: Path) -> None:
    held = FolderLock(tmp_path / "lock")
    held.acquire()
    FolderLock(tmp_path / "lock").release()
    assert (tmp_path / "lock").exists()
    held.release()
