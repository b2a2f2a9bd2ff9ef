"""Training curves: from the last checkpoint's state, from TensorBoard logs, or from both where one ends early."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distal.report.page.reading import FolderReader, finite, mapping, records

__all__ = ["Series", "Training", "read_training"]

MOST_POINTS = 1500
"""Points of one curve in the page; a longer one is thinned out evenly, its last point kept."""

_NO_METRICS = frozenset(("step", "epoch", "total_flos", "train_loss", "num_input_tokens_seen"))
_SPEED = re.compile(r"(runtime|_per_second)$")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One metric over optimizer steps.

    Attributes:
        steps: ascending, (points,).
        values: finite, (points,).
        every: one of so many logged points is kept.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    every: int = 1


@dataclass(frozen=True, kw_only=True)
class Training:
    """The curves of a run.

    Attributes:
        source: the file or files that they come from.
        series: by the name of the metric; evaluations have the prefix `eval_`.
        not_finite: logged values that were NaN or infinite, and are no points.
    """

    source: str
    series: Mapping[str, Series]
    not_finite: int

    @property
    def last_step(self) -> int:
        """The last step with any value; 0 if there is none."""
        return max((series.steps[-1] for series in self.series.values()), default=0)


def read_training(reader: FolderReader, steps: int | None) -> Training | None:
    """The curves of a run; None where nothing was logged.

    Args:
        reader: of the run folder.
        steps: that the run is known to have taken, so that logs which end earlier are completed.
    """
    found = _from_checkpoint(reader)
    if found is not None and found.series and found.last_step >= (steps or 0):
        return found
    logged = _from_tensorboard(reader)
    if logged is None or not logged.series:
        return found if found is not None and found.series else None
    if found is None or found.last_step < logged.last_step:
        return logged
    return found


def _from_checkpoint(reader: FolderReader) -> Training | None:
    """The log that the last checkpoint carries."""
    path = max(reader.files("checkpoint-*/trainer_state.json"), key=_step_of, default=None)
    state = None if path is None else reader.json(path)
    if path is None or state is None:
        return None
    entries = records(mapping(state).get("log_history"))
    values = [
        (name, int(step), value)
        for entry in entries
        if (step := finite(entry.get("step"))) is not None
        for name, value in entry.items()
        if _is_metric(name, value)
    ]
    return _training(reader.name(path), values)


def _step_of(path: Path) -> int:
    number = path.parent.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def _from_tensorboard(reader: FolderReader) -> Training | None:
    """The scalars of all event files, as the Trainer names them."""
    paths = reader.files("runs/**/events.out.tfevents.*", "tensorboard/**/events.out.tfevents.*")
    values: list[tuple[str, int, Any]] = []
    for path in paths:
        try:
            values += [(_logged_name(tag), step, value) for tag, step, value in _scalars(path)]
        except Exception as error:  # a broken byte leads the reader of event files to anything
            reader.complain(path, f"is no TensorBoard log ({type(error).__name__}: {error})")
    names = reader.name(paths[0].parent) if paths else ""
    kept = [(name, step, value) for name, step, value in values if _is_metric(name, value)]
    return _training(names, kept) if kept else None


def _scalars(path: Path) -> Iterable[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log: Any = EventAccumulator(str(path), size_guidance={"scalars": 0})
    log.Reload()
    log.FirstEventTimestamp()  # raises where nothing could be read; by itself the reader is silent about that
    for tag in log.Tags()["scalars"]:
        for event in log.Scalars(tag):
            yield tag, event.step, event.value


def _logged_name(tag: str) -> str:
    """The Trainer's name of a tag: `train/loss` is `loss`, `eval/loss` is `eval_loss`."""
    if tag.startswith("eval/"):
        return "eval_" + tag.removeprefix("eval/")
    return tag.removeprefix("train/")


def _is_metric(name: str, value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and name not in _NO_METRICS and not _SPEED.search(name)


def _training(source: str, values: Iterable[tuple[str, int, Any]]) -> Training:
    """Series by name; of two values of one step the later one counts, as after a resumption."""
    points: dict[str, dict[int, float]] = {}
    not_finite = 0
    for name, step, value in values:
        number = finite(value)
        if number is None:
            not_finite += 1
        else:
            points.setdefault(name, {})[step] = number
    series = {name: _series(sorted(found.items())) for name, found in points.items()}
    return Training(source=source, series=series, not_finite=not_finite)


def _series(points: Sequence[tuple[int, float]]) -> Series:
    every = -(-len(points) // MOST_POINTS)
    kept = list(points[::every])
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    steps, values = zip(*kept, strict=True)
    return Series(steps=tuple(steps), values=tuple(values), every=every)
