"""Stopping with Ctrl-C: the first one ends the step and saves a checkpoint, the second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["InterruptGuard", "RunInterrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(KeyboardInterrupt):
    """The user stopped a run; the message says how to go on."""


class InterruptGuard(TrainerCallback):
    """While open, turns the first interrupt into "finish this step, save, stop".

    Signal handlers belong to the main thread, so elsewhere (and under a launcher of several processes, where
    `active` is false) interrupts keep their usual effect.

    Args:
        announce: called with one line when the interrupt arrives.
        active: whether to handle signals at all.
    """

    def __init__(self, announce: Callable[[str], None], *, active: bool = True) -> None:
        self.requested = False
        self._announce = announce
        self._active = active and threading.current_thread() is threading.main_thread()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._active:
            self._former = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks the Trainer to save and stop, once an interrupt has arrived."""
        if self.requested:
            control.should_save = True
            control.should_training_stop = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._announce(
            "Stopping: finishing this step, then saving a checkpoint (press Ctrl-C again to stop at once)."
        )
