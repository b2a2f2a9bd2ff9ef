"""Checkpoints on disk: written whole or not at all, found again, and kept from being deleted too early.

A checkpoint is written into `.saving/checkpoint-N`, in the file system of its target. When all of it is there, its
record (`resumption.json`: every file with its size, and what run it belongs to) is written last, everything is forced
to the disk, and one rename puts it in place. So a process that is killed at any moment leaves the checkpoints that it
had, and perhaps something in `.saving`, which nobody takes for a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from distal.errors import OutputError

__all__ = [
    "RECORD_FILE",
    "STAGING",
    "discard_staged",
    "last_complete_checkpoint",
    "last_usable_checkpoint",
    "list_checkpoints",
    "promote_staged",
    "publish",
    "read_record",
    "rotate",
    "why_unusable",
    "write_record",
]

logger = logging.getLogger(__name__)

STAGING = ".saving"
"""Folder inside a run folder where a checkpoint is while it is being written."""
RECORD_FILE = "resumption.json"
"""File of a checkpoint that is written last: its files with their sizes, and the identity of its run."""

_RECORD_FORMAT = 1
_STATE_FILE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """The folders `checkpoint-N`, usable or not, by ascending N."""
    if not Path(run_dir).is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in Path(run_dir).iterdir()
        if path.is_dir() and (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found)]


def last_usable_checkpoint(run_dir: str | Path) -> Path | None:
    """The newest checkpoint that training can go on from, None where there is none.

    Those that cannot be used are passed over with a message that says why.
    """
    for folder in reversed(list_checkpoints(run_dir)):
        reason = why_unusable(folder)
        if reason is None:
            return folder
        logger.warning("%s is skipped: %s.", folder, reason)
    return None


def last_complete_checkpoint(run_dir: str | Path) -> Path:
    """The newest checkpoint that training can go on from; others are passed over with a message.

    Raises:
        OutputError: there is none.
    """
    found = last_usable_checkpoint(run_dir)
    if found is None:
        unusable = len(list_checkpoints(run_dir))
        raise OutputError(
            f"{run_dir} holds no usable checkpoint to resume from ({unusable} unusable). "
            "Start again without resuming, in another folder or with overwrite."
        )
    return found


def why_unusable(folder: str | Path) -> str | None:
    """Why training cannot go on from a checkpoint; None where it can.

    A checkpoint with a record must hold every file that the record lists, in its full size. One without (written by
    another program) must hold weights, optimizer and a readable state, and no file may be cut short.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it was not written to its end ({_STATE_FILE} is missing)"
    except (OSError, ValueError):
        return f"it was not written to its end ({_STATE_FILE} cannot be read)"
    if not isinstance(state, dict) or "global_step" not in state:
        return f"{_STATE_FILE} names no global_step"
    damage = _damage_by_record(folder) if (folder / RECORD_FILE).exists() else _damage_by_content(folder)
    if damage is None and not _holds_optimizer(folder):
        return "it holds no optimizer state (save_only_model keeps none), so training cannot go on from it"
    return damage


def write_record(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write the record of a checkpoint that is otherwise complete."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    record = {"format": _RECORD_FORMAT, "identity": identity, "files": files}
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a checkpoint, None where it has none.

    Raises:
        OutputError: it cannot be read, or a later version of Distal wrote it.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = record["format"] == _RECORD_FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} cannot be read ({error!r}); resume from another checkpoint.") from None
    if not known:
        raise OutputError(
            f"{path} has format {record['format']!r}, this version of Distal knows {_RECORD_FORMAT}; resume with the "
            "version that wrote it."
        )
    return record


def publish(staged: Path, target: Path) -> None:
    """Put a checkpoint that is complete in its place, in one step.

    Raises:
        OSError: the disk is full or fails; then the checkpoint is not in place.
    """
    _force_to_disk(staged)
    if target.exists():
        # A folder cannot be renamed onto another. Killed between the two renames, the run is resumed by way of
        # `promote_staged`.
        _set_aside(target, staged.parent)
    staged.rename(target)
    _flush_folder(target.parent)
    _flush_folder(staged.parent)


def promote_staged(run_dir: str | Path) -> None:
    """Put in place what a killed process had written to its end but not put in place, and discard the rest."""
    for staged in list_checkpoints(Path(run_dir) / STAGING):
        target = Path(run_dir) / staged.name
        if (staged / RECORD_FILE).exists() and why_unusable(staged) is None and not target.exists():
            publish(staged, target)
    discard_staged(run_dir)


def discard_staged(run_dir: str | Path) -> None:
    """Remove what a killed process was about to write or to delete."""
    shutil.rmtree(Path(run_dir) / STAGING, ignore_errors=True)


def rotate(run_dir: Path, keep: int | None, *, protected: Collection[Path]) -> None:
    """Delete the oldest checkpoints beyond `keep`, unusable ones first.

    Args:
        run_dir: holds the checkpoints.
        keep: how many may stay, protected ones included; None or less than 1 for all of them.
        protected: never deleted: the newest one and the best one.
    """
    if keep is None or keep < 1:
        return
    checkpoints = list_checkpoints(run_dir)
    kept = {path.resolve() for path in protected}
    surplus = len(checkpoints) - max(keep, len(kept))
    candidates = sorted((path for path in checkpoints if path.resolve() not in kept), key=_order_of_deletion)
    for path in candidates[: max(0, surplus)]:
        # Out of sight by one rename: a process killed while it deletes leaves no half of a checkpoint in place.
        shutil.rmtree(_set_aside(path, run_dir / STAGING), ignore_errors=True)


def _order_of_deletion(folder: Path) -> tuple[bool, int, int]:
    """Unusable ones first, then by time of writing (numbers of an earlier run may be higher), then by number."""
    try:
        written = (folder / _STATE_FILE).stat().st_mtime_ns
    except OSError:
        written = 0
    return why_unusable(folder) is None, written, int(folder.name.rpartition("-")[2])


def _set_aside(folder: Path, staging: Path) -> Path:
    """Move a checkpoint into the staging folder, under a name that is none of a checkpoint."""
    staging.mkdir(exist_ok=True)
    aside = staging / f"old-{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def _damage_by_record(folder: Path) -> str | None:
    try:
        record = read_record(folder)
    except OutputError as error:
        return str(error).rstrip(".")
    files = cast("dict[str, int]", (record or {}).get("files", {}))
    for name, size in files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            return f"it is damaged: {name} is missing"
        if found != size:
            return f"it is damaged: {name} has {found} of {size} bytes"
    return None


def _damage_by_content(folder: Path) -> str | None:
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*"), *folder.glob("global_step*")]
    if not weights:
        return "it holds no weights"
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.pt"), *folder.glob("*.pth")):
        if not (_is_whole_safetensors(path) if path.suffix == ".safetensors" else zipfile.is_zipfile(path)):
            return f"it was not written to its end ({path.name} is cut short)"
    for index in folder.glob("*.safetensors.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"it was not written to its end ({index.name} cannot be read)"
        missing = [name for name in sorted(shards) if not (folder / str(name)).exists()]
        if missing:
            return f"it was not written to its end ({missing[0]} is missing)"
    return None


def _holds_optimizer(folder: Path) -> bool:
    # optimizer.pt; optimizer_0/ and optimizer.bin under FSDP; global_stepN/ under DeepSpeed.
    return any(folder.glob("optimizer*")) or any(folder.glob("global_step*"))


def _is_whole_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < size else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return bool(ends) and size == 8 + length + max(ends)


def _force_to_disk(folder: Path) -> None:
    """Wait until everything below a folder is on the disk: a rename must not get there before what it names."""
    for path in _deepest_first(folder):
        if path.is_dir():
            _flush_folder(path)
        else:
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())


def _deepest_first(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _deepest_first(path)
        else:
            yield path
    yield folder


def _flush_folder(folder: Path) -> None:
    # Some systems and network file systems cannot flush folders; there the rename is as safe as they make it.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
