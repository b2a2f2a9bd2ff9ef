"""Disk space: the estimate by hand, and the forms that a full disk takes."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors import SafetensorError

from distal.errors import OutputError
from distal.workflow.storage import bytes_needed, check_space, is_disk_full


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_full_fine_tuning_by_hand() -> None:
    # 100 bytes of weights; each checkpoint has them and two Adam states; the result has them once more
    needed = bytes_needed(
        weight_bytes=100, trainable_bytes=100, saves_whole_model=True, checkpoints=2, keeps_optimizer=True
    )
    assert needed == 100 + 2 * (100 + 200)


def test_adapter_by_hand() -> None:
    needed = bytes_needed(
        weight_bytes=100, trainable_bytes=5, saves_whole_model=False, checkpoints=3, keeps_optimizer=True
    )
    assert needed == 5 + 3 * (5 + 10)


def test_without_optimizer_state() -> None:
    needed = bytes_needed(
        weight_bytes=100, trainable_bytes=100, saves_whole_model=True, checkpoints=2, keeps_optimizer=False
    )
    assert needed == 300


def test_space_is_checked_on_the_disk_of_a_folder_that_does_not_exist_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(Path(path))
        return Usage(10, 0, 1000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_space(tmp_path / "a" / "b", 1000)
    with pytest.raises(OutputError, match=r"about 1001 B, 1000 B are free.*--save-total-limit 1"):
        check_space(tmp_path / "a" / "b", 1001)
    assert set(asked) == {tmp_path}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_system_errors(number: int) -> None:
    assert is_disk_full(OSError(number, "x"))


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(RuntimeError("CUDA error"))
    assert not is_disk_full(None)


def test_cause_and_context_are_searched() -> None:
    with pytest.raises(ValueError, match="outer") as direct:
        raise ValueError("outer") from OSError(errno.ENOSPC, "inner")
    assert is_disk_full(direct.value)


@pytest.mark.parametrize(
    "error",
    [
        # As raised on a full tmpfs by safetensors 0.8 and torch 2.13, neither of which raises an OSError.
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
    ids=["safetensors", "torch"],
)
def test_what_libraries_raise_on_a_full_disk(error: Exception) -> None:
    assert is_disk_full(error)
