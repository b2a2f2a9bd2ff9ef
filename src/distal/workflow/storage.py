"""Disk space: what a run will need, and how a full disk shows."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from distal.errors import OutputError

__all__ = ["bytes_needed", "check_space", "is_disk_full", "readable_size"]

_SIGNS = ("no space left on device", "os error 28", "disk quota exceeded", "os error 122")
_TORCH_WRITER = ("PytorchStreamWriter failed writing", "unexpected pos")
_STATES_PER_PARAMETER = 2  # Adam keeps a mean and a square of each gradient, as large as the weight


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, means that a disk or quota is full.

    The libraries below report it in several forms: as an `OSError`, as a `SafetensorError` that quotes the
    system, or as a `RuntimeError` of torch's file writer that does not say why.

    Examples:
        >>> is_disk_full(OSError(28, "No space left on device")), is_disk_full(ValueError("no"))
        (True, False)
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(error)
        if any(sign in text.lower() for sign in _SIGNS):
            return True
        if isinstance(error, RuntimeError) and any(sign in text for sign in _TORCH_WRITER):
            return True
        error = error.__cause__ or error.__context__
    return False


def bytes_needed(
    *,
    weight_bytes: int,
    trainable_bytes: int,
    saves_whole_model: bool,
    checkpoints: int,
    keeps_optimizer: bool,
) -> int:
    """Estimates what a run will write.

    Args:
        weight_bytes: size of all weights.
        trainable_bytes: size of the weights that are trained.
        saves_whole_model: whether all weights are saved, or (adapters) the trained ones only.
        checkpoints: how many checkpoints exist at the same time, at most.
        keeps_optimizer: whether checkpoints hold the optimizer's state.

    Returns:
        Bytes: final weights, and per checkpoint the weights and the optimizer's state.
    """
    saved = weight_bytes if saves_whole_model else trainable_bytes
    states = _STATES_PER_PARAMETER * trainable_bytes if keeps_optimizer else 0
    return saved + checkpoints * (saved + states)


def check_space(folder: Path, needed: int) -> None:
    """Refuses to start a run that will not fit on the disk.

    Raises:
        OutputError: naming both sizes.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f"too little disk space for {folder}: the checkpoints and the result will take about "
            f"{readable_size(needed)}, {readable_size(free)} are free. Make room, keep fewer checkpoints "
            "(--save-total-limit 1, --save-only-model or a larger --save-steps), or name a folder on "
            "another disk with --output-dir."
        )


def readable_size(size: float) -> str:
    """A size in a unit that suits it.

    Examples:
        >>> readable_size(1536)
        '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
