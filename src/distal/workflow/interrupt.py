"""Stopping with Ctrl-C: the first one ends the step and saves a checkpoint, the second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distal.scoring import in_parallel
from distal.training.ranks import most_over_ranks

__all__ = ["InterruptGuard", "RunInterrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A launcher of several processes ends them with SIGTERM when one has failed: then no step can be finished.
_SIGNALS_IN_PARALLEL = (signal.SIGINT,)


class RunInterrupted(KeyboardInterrupt):
    """The user stopped a run; the message says how to go on."""


class InterruptGuard(TrainerCallback):
    """While open, turns the first interrupt into "finish this step, save, stop".

    Several processes at one run stop after the same step, although the signal reaches them at different times.
    Signal handlers belong to the main thread, so elsewhere interrupts keep their usual effect.

    Args:
        announce: called with one line when the interrupt arrives.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.stopping = False
        self._requested = False
        self._announce = announce
        self._parallel = in_parallel()
        self._active = threading.current_thread() is threading.main_thread()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._active:
            signals = _SIGNALS_IN_PARALLEL if self._parallel else _SIGNALS
            self._former = {number: signal.signal(number, self._on_signal) for number in signals}
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
        if self._active and most_over_ranks(int(self._requested)):
            self.stopping = True
            control.should_save = True
            control.should_training_stop = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        hint = "torchrun allows 30 seconds for it" if self._parallel else "press Ctrl-C again to stop at once"
        self._announce(f"Stopping: finishing this step, then saving a checkpoint ({hint}).")
