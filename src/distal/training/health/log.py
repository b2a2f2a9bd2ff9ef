"""The file of a run's health: one JSON object per step, each step once, whatever happens to the process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["HEALTH_FILE", "HealthLog", "read_records"]

HEALTH_FILE = "health.jsonl"
"""Name of the file in the run folder."""

Record = dict[str, Any]


class HealthLog:
    """Appends records of ascending steps to a file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, step: int | None) -> list[Record]:
        """Make the file ready for what follows a step.

        Args:
            step: the checkpoint's step where the run is resumed: later records, and one that was cut off while it
                was written, are removed, since these steps are taken again. None starts a new file.

        Returns:
            The records that are kept.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept, end = _read(self.path, step) if step is not None else ([], 0)
        with self.path.open("ab") as stream:
            stream.truncate(end)
        return kept

    def append(self, record: Mapping[str, Any], *, to_disk: bool = False) -> None:
        """Add a record.

        Args:
            record: with the key `step`.
            to_disk: wait until it is on the disk, and not only with the operating system.
        """
        with self.path.open("ab") as stream:
            stream.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            if to_disk:
                stream.flush()
                os.fsync(stream.fileno())


def read_records(path: Path) -> list[Record]:
    """All records of a file, without one that was cut off; none where there is no file."""
    return _read(path, None)[0]


def _read(path: Path, up_to: int | None) -> tuple[list[Record], int]:
    """Records until the first that is broken or later than a step, and where they end, bytes."""
    records: list[Record] = []
    end = 0
    if not path.exists():
        return records, end
    with path.open("rb") as stream:
        for line in stream:
            record = _parse(line)
            if record is None or (up_to is not None and record["step"] > up_to):
                break
            records.append(record)
            end += len(line)
    return records, end


def _parse(line: bytes) -> Record | None:
    """A record, None for a line that is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
