"""An append-only file of results that cost something, so that no crash loses one.

One JSON object per line, each with its own checksum. A line is written in one piece and reaches the disk before
`put` returns. A process that is killed while it writes leaves at most one torn line, which is skipped, as any damaged
line is: what it held is computed again. Several processes may share a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distal.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: appends of one process are still ordered by the lock between its threads
    fcntl = None

__all__ = ["Journal", "content_key"]

Value = Mapping[str, Any]


def content_key(**parts: Any) -> str:
    """SHA-256 of everything that a result depends on, 64 hexadecimal digits.

    Examples:
        >>> content_key(model="m", prompt="p") == content_key(prompt="p", model="m")
        True
    """
    return hashlib.sha256(_canonical(parts)).hexdigest()


class Journal:
    """Results by key; the first one written under a key stays.

    Args:
        path: the file; it is made with the first result, its folder too.

    Attributes:
        damaged: lines that were skipped because they are torn or their checksum differs.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.jsonl"
        >>> Journal(path).put({"k": {"verdict": "A"}})
        {'k': {'verdict': 'A'}}
        >>> Journal(path).get("k"), Journal(path).get("other")
        ({'verdict': 'A'}, None)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damaged = 0
        self._entries: dict[str, Value] = {}
        self._read_to = 0
        self._lock = threading.Lock()
        with self._lock, self._readable():
            self._refresh()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Value | None:
        """The result under a key, or None; another process's results count as soon as `put` was called once."""
        with self._lock:
            return self._entries.get(key)

    def put(self, results: Mapping[str, Value]) -> dict[str, Value]:
        """Keep results; returns what is kept under their keys, which another process may have written first.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._lock, self._writable() as descriptor:
            torn = self._refresh()
            new = {key: value for key, value in results.items() if key not in self._entries}
            if new:
                content = b"".join(_line(key, value) for key, value in new.items())
                # A dead process's torn line must not swallow ours.
                _write(descriptor, b"\n" + content if torn else content)
                self._refresh()
            return {key: self._entries[key] for key in results}

    def remove(self) -> None:
        """Delete the file, when what it held is in its final place."""
        self.path.unlink(missing_ok=True)

    def _refresh(self) -> bool:
        """Read what was appended since the last time; returns whether the file ends in the middle of a line."""
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._read_to:  # somebody emptied the file: start again
                self._read_to = 0
            file.seek(self._read_to)
            *lines, rest = file.read().split(b"\n")
        for line in lines:
            self._read_to += len(line) + 1
            if line.strip():
                self._take(line)
        return bool(rest)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            intact = entry["sha256"] == _checksum(key, value)
        except (ValueError, KeyError, TypeError, RecursionError):
            intact, key, value = False, "", {}
        if intact:
            self._entries.setdefault(key, value)
        else:
            self.damaged += 1

    @contextmanager
    def _readable(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot read {self.path}: {error.strerror or error}; mend its rights, or name another folder"
            ) from error

    @contextmanager
    def _writable(self) -> Generator[int]:
        descriptor: int | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; what it holds so far is kept: make room, or "
                "name a folder that is writable"
            ) from error
        finally:
            if descriptor is not None:
                os.close(descriptor)  # drops the lock


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _line(key: str, value: Value) -> bytes:
    return _canonical({"key": key, "value": value, "sha256": _checksum(key, value)}) + b"\n"


def _checksum(key: str, value: Value) -> str:
    return hashlib.sha256(_canonical([key, value])).hexdigest()[:32]


def _canonical(content: Any) -> bytes:
    # Half a surrogate pair, which some models write, is no UTF-8: as an escape it survives.
    return json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":")).encode("ascii")
