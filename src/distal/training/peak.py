"""Peak memory of a piece of work, on the device where it runs."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

__all__ = ["Peak", "bytes_in_use", "measured_peak"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Filled when the measurement ends.

    Attributes:
        bytes: the most that was in use at the same time: on CUDA of PyTorch's allocator, else resident memory of
            this process.
    """

    bytes: int = 0


def bytes_in_use(device: torch.device) -> int:
    """What is in use now, in the same measure as `measured_peak`."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


@contextmanager
def measured_peak(device: torch.device) -> Generator[Peak]:
    """Measure the peak while open.

    Linux keeps the peak of resident memory and lets a process reset it; elsewhere a thread looks every millisecond.

    Examples:
        >>> with measured_peak(torch.device("cpu")) as peak:
        ...     _ = torch.ones(2**24)
        >>> peak.bytes > 2**26
        True
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
    elif _reset_high_water_mark():
        yield peak
        peak.bytes = _high_water_mark()
    else:
        with _watched(peak):
            yield peak


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return _STATUS.exists()


def _high_water_mark() -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _watched(peak: Peak) -> Generator[None]:
    ended, process = threading.Event(), psutil.Process()

    def watch() -> None:
        while not ended.wait(0.001):
            peak.bytes = max(peak.bytes, int(process.memory_info().rss))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        peak.bytes = max(peak.bytes, int(process.memory_info().rss))
