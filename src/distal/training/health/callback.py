"""The callback that measures every step, judges it, writes it down, and warns once of each kind of trouble."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distal.errors import DistalError
from distal.objectives import Objective
from distal.scoring import compute_dtype
from distal.training.engine import StepOutput
from distal.training.health.findings import Finding
from distal.training.health.log import HEALTH_FILE, HealthLog
from distal.training.health.measures import measure
from distal.training.health.probe import Probe
from distal.training.health.rules import History, judge
from distal.training.health.thresholds import HealthThresholds

__all__ = ["HealthCallback"]

logger = logging.getLogger(__name__)


class HealthCallback(TrainerCallback):
    """Watches the steps of a run and writes `health.jsonl` into its folder.

    Every rank knows the whole optimizer batch, so the first one measures and writes; the others only take part in
    the probe. A resumed run goes on with the file where its checkpoint was made: no step stands there twice, the
    window of the guards is what it was, and nothing is warned of twice.

    Args:
        thresholds: of the guards.
        objective: that the steps minimise.
        last_step: what the engine computed of the step just taken; None if no step was taken.
        probe: made when training begins, if the thresholds ask for one.
    """

    def __init__(
        self,
        thresholds: HealthThresholds,
        objective: Objective,
        last_step: Callable[[], StepOutput | None],
        probe: Callable[[], Probe] | None = None,
    ) -> None:
        self.thresholds, self.objective = thresholds, objective
        self._last_step = last_step
        self._make_probe = probe
        self._probe: Probe | None = None
        self._log: HealthLog | None = None
        self._window: deque[Mapping[str, Any]] = deque(maxlen=thresholds.window)
        self._start: Mapping[str, Any] = {}
        self._warned: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the file, and take up what it says of the steps before."""
        fresh = state.global_step == 0
        kept: list[dict[str, Any]] = []
        if state.is_world_process_zero:
            self._log = HealthLog(Path(str(args.output_dir)) / HEALTH_FILE)
            kept = self._log.begin(None if fresh else state.global_step)
        self._window.clear()
        self._window.extend(record for record in kept if record["step"] > 0)
        self._start = next((record for record in kept if record["step"] == 0), {})
        self._warned = {entry["guard"] for record in kept for entry in record.get("findings", [])}
        if self.thresholds.probe_every is not None and self._make_probe is not None:
            self._probe = self._make_probe()
            if fresh:
                self._start = {"step": 0, **self._probe.measure(kwargs["model"])}
                if self._log is not None:
                    self._log.append(self._start)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the step just taken, judge the window, write both down."""
        model: nn.Module = kwargs["model"]
        every = self.thresholds.probe_every
        due = self._probe is not None and every is not None and state.global_step % every == 0
        probed = self._probe.measure(model) if self._probe is not None and due else {}
        output = self._last_step()
        if self._log is None or output is None:
            return
        dtype = compute_dtype(model, getattr(args, "autocast_dtype", None))
        record = {"step": state.global_step, **measure(output, self.objective, dtype), **probed}
        self._window.append(record)
        full = len(self._window) == self.thresholds.window
        found = judge(History(self._window, full, self._start), self.thresholds)
        self._write(record, found, to_disk=control.should_save)

    def on_error(self, step: int, guard: str, error: DistalError) -> None:
        """Write down what stops the run.

        Args:
            step: that was not taken.
            guard: what stopped it.
            error: to be raised.
        """
        if self._log is not None:
            finding = Finding(guard=guard, severity="error", message=str(error))
            self._log.append({"step": step, "findings": [finding.to_json()]}, to_disk=True)

    def _write(self, record: Mapping[str, Any], found: list[Finding], *, to_disk: bool) -> None:
        new = [finding for finding in found if finding.guard not in self._warned]
        for finding in new:
            self._warned.add(finding.guard)
            logger.warning("Step %s: %s (%s).", record["step"], finding, finding.guard)
        extra: dict[str, Any] = {}
        if found:
            extra["active"] = [finding.guard for finding in found]
        if new:
            extra["findings"] = [finding.to_json() for finding in new]
        assert self._log is not None
        self._log.append({**record, **extra}, to_disk=to_disk)
