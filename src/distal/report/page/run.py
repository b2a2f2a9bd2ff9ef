"""One run as the page shows it: everything that its folder holds, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distal.errors import ConfigError, DataError
from distal.report.page.certificates import Certificate, read_certificates
from distal.report.page.evaluations import Benchmarks, WinRate, read_benchmarks, read_win_rates
from distal.report.page.generations import RunSamples, during_training, read_samples
from distal.report.page.reading import FolderReader, Problem, finite, mapping
from distal.report.page.training import Training, read_training
from distal.training.health import HEALTH_FILE, HealthSummary, HealthThresholds, health_summary

__all__ = ["CONFIG_FILES", "STATE_FILES", "Run", "read_runs"]

STATE_FILES = ("run.json", "demo.json")
"""Records of how a run of `distal align`, or a demo, stands."""
CONFIG_FILES = ("distal.yaml", "align.yaml")
"""Their resolved options."""

_CARD_DATA = "Data, as read:\n\n```\n"
_KNOWN = (*STATE_FILES, "dominance.json", "evaluation", "generations", "winrate.json", "benchmarks.json")
_ALIGNED = "aligned"
"""Folder of the aligned model within a demo."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of a run.

    Attributes:
        folder: as given.
        name: short, and different from that of every other run on the page.
        state: content of its state file; empty where there is none.
        config: its resolved options; empty where there are none.
        certificates: the one made last first.
        training: its curves.
        health: what the guards found; None where nothing was measured.
        samples: generations before and after.
        sampled: texts written in the course of training, one record each.
        evaluated: evaluations in the course of training, one record each.
        data_lines: how the data were read, as the model card says.
        data_check: content of data.json, as `distal data check --json` writes it.
        win_rates: of any number of judges.
        benchmarks: before and after.
        problems: what could not be read.
    """

    folder: Path
    name: str
    state: Mapping[str, Any]
    config: Mapping[str, Any]
    certificates: tuple[Certificate, ...]
    training: Training | None
    health: HealthSummary | None
    samples: RunSamples | None
    sampled: tuple[Mapping[str, Any], ...]
    evaluated: tuple[Mapping[str, Any], ...]
    data_lines: str | None
    data_check: Mapping[str, Any]
    win_rates: tuple[WinRate, ...]
    benchmarks: Benchmarks | None
    problems: tuple[Problem, ...]

    @property
    def certificate(self) -> Certificate | None:
        """The certificate that the page is about."""
        return next(iter(self.certificates), None)

    @property
    def objective(self) -> str | None:
        """Name of the objective, where it is known."""
        named = self.config.get("objective")
        return named if isinstance(named, str) else None

    @property
    def base(self) -> str | None:
        """Name of the model that was aligned; of a folder elsewhere only its last part."""
        named = self.config.get("model")
        if not isinstance(named, str):
            return None
        return Path(named).name if Path(named).is_absolute() else named


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Reads the folders of runs.

    Args:
        folders: of `distal align`, `distal demo` or `distal evaluate`.

    Returns:
        One record each, in the order given; a run of which some files are broken carries them in `problems`.

    Raises:
        ConfigError: no folder, or one given twice.
        DataError: one is no folder of a run.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ConfigError("there is no run to report on: name at least one folder that `distal align` wrote")
    for path in paths:
        _check_is_run(path)
    resolved = [path.resolve() for path in paths]
    twice = next((path for path in resolved if resolved.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice; name each run once")
    return [_read(path, name) for path, name in zip(paths, _short_names(resolved), strict=True)]


def _check_is_run(path: Path) -> None:
    if not path.exists():
        raise DataError(f"there is no folder {path}; name one that `distal align` wrote")
    if not path.is_dir():
        raise DataError(f"{path} is a file; name the folder of a run, such as {path.parent}")
    try:
        found = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if not set(found) & set(_KNOWN):
        shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "") or "nothing"
        raise DataError(
            f"{path} holds no run: none of {', '.join(_KNOWN)} is there (found {shown}). Name the output folder of "
            "`distal align`, `distal demo` or `distal evaluate`."
        )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as it takes to tell them apart.

    Examples:
        >>> _short_names([Path("/a/x/run"), Path("/a/y/run"), Path("/a/z")])
        ['x/run', 'y/run', 'z']
    """
    names = [path.name for path in paths]
    parts = 1
    while len(set(names)) < len(names):
        parts += 1
        names = [
            "/".join(path.parts[-parts:]) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def _read(path: Path, name: str) -> Run:
    reader = FolderReader(path)
    state = _document(reader, *STATE_FILES)
    config = _document(reader, *CONFIG_FILES)
    health = _health(reader, config)
    steps = finite(state.get("steps"))
    known_steps = int(steps) if steps is not None else health.last_step if health is not None else None
    evaluated = reader.first("evaluations.jsonl", "evaluation/evaluations.jsonl")
    return Run(
        folder=path,
        name=name,
        state=state,
        config=config,
        certificates=read_certificates(reader),
        training=read_training(reader, known_steps),
        health=health,
        samples=read_samples(reader),
        sampled=during_training(reader),
        evaluated=() if evaluated is None else tuple(reader.json_lines(evaluated)),
        data_lines=_data_lines(reader),
        data_check=_document(reader, "data.json", "evaluation/data.json"),
        win_rates=read_win_rates(reader),
        benchmarks=read_benchmarks(reader),
        problems=tuple(reader.problems),
    )


def _document(reader: FolderReader, *names: str) -> Mapping[str, Any]:
    """A file of named values; empty where there is none, or it is broken."""
    path = reader.first(*names)
    if path is None:
        return {}
    content = reader.yaml(path) if path.suffix == ".yaml" else reader.json(path)
    if content is not None and not isinstance(content, Mapping):
        reader.complain(path, "holds no named values")
    return mapping(content)


def _health(reader: FolderReader, config: Mapping[str, Any]) -> HealthSummary | None:
    """What the guards found, as `distal align` says at its end."""
    path = reader.first(HEALTH_FILE, f"{_ALIGNED}/{HEALTH_FILE}")
    if path is None:
        return None
    try:
        thresholds = HealthThresholds.from_option(config.get("health", True)) or HealthThresholds()
        summary = health_summary(path, thresholds)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        reader.complain(path, f"cannot be summed up ({type(error).__name__}: {error})")
        return None
    lines = (reader.text(path) or "").count("\n")
    if summary is None:
        reader.complain(path, "holds no whole record")
    elif summary.last_step < lines - 1:  # one record per step, and one of step 0 where there is a probe
        reader.complain(path, f"is broken after step {summary.last_step}; later lines are not read")
    return summary


def _data_lines(reader: FolderReader) -> str | None:
    """The part of the model card that says how the data were read."""
    path = reader.first("README.md")
    card = "" if path is None else reader.text(path) or ""
    _, found, rest = card.partition(_CARD_DATA)
    return rest.partition("\n```")[0] if found else None
