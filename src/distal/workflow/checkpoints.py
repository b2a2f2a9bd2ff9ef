"""Which checkpoints of an output folder can be resumed from."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distal.training.checkpoints import is_complete_checkpoint

__all__ = ["broken_checkpoints", "is_usable", "last_usable_checkpoint", "list_checkpoints"]

_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders, by ascending step."""
    if not folder.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if path.is_dir() and (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def last_usable_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that is complete, None where there is none."""
    return next((path for path in reversed(list_checkpoints(folder)) if is_usable(path)), None)


def broken_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that a killed process left half written."""
    return [path for path in list_checkpoints(folder) if not is_usable(path)]


def is_usable(checkpoint: Path) -> bool:
    """Whether training can go on from a checkpoint.

    Besides being written to its end, it must hold the optimizer's state (a run with `save_only_model` keeps
    none), and its weight files must be as long as their headers promise, which a crash may prevent.
    """
    return (
        is_complete_checkpoint(checkpoint)
        and any(checkpoint.glob("optimizer*"))
        and all(_is_whole(path) for path in checkpoint.glob("*.safetensors"))
    )


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < size else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return bool(ends) and size == 8 + length + max(ends)
