"""Win rates and benchmarks, as their files state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distal.report.page.reading import FolderReader, finite, mapping, pair, records, rows_named, text

__all__ = ["Benchmark", "Benchmarks", "WinRate", "read_benchmarks", "read_win_rates"]

_WIN_RATES = "distal.winrate/"
_BENCHMARKS = "distal.benchmarks/"


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often a judge prefers the model to the baseline; rates are shares in [0, 1], ties counting half.

    Attributes:
        adjusted: further estimates of the rate by name, with their intervals where there are any.
        counts: wins, losses, ties and failed judgements.
        order_agreement: share of prompts judged alike when the order of the two answers is swapped.
        notes: cautions of whoever counted.
    """

    file: str
    judge: str
    model: str
    baseline: str
    n: int | None
    rate: float
    interval: tuple[float, float] | None
    confidence: float
    adjusted: Mapping[str, tuple[float | None, tuple[float, float] | None]]
    counts: Mapping[str, int]
    order_agreement: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One metric of one task before and after, with standard errors; None where the file says nothing.

    Attributes:
        p_holm: p-value of the difference, adjusted for the number of rows.
    """

    task: str
    metric: str
    before: float | None
    before_stderr: float | None
    after: float | None
    after_stderr: float | None
    difference: float | None
    difference_stderr: float | None
    p_holm: float | None
    n: int | None
    higher_is_better: bool

    @property
    def interval(self) -> tuple[float, float] | None:
        """Normal 95 % interval of the difference."""
        if self.difference is None or self.difference_stderr is None:
            return None
        half = 1.959964 * self.difference_stderr
        return (self.difference - half, self.difference + half)


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """The benchmarks of a run and how they were run."""

    file: str
    tasks: tuple[Benchmark, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]


def read_win_rates(reader: FolderReader) -> tuple[WinRate, ...]:
    """All win rates of a run."""
    patterns = ("winrate*.json", "*/winrate*.json", "evaluation/*/winrate*.json")
    found = (_win_rate(reader, path) for path in dict.fromkeys(reader.files(*patterns)))
    return tuple(rate for rate in found if rate is not None)


def _win_rate(reader: FolderReader, path: Path) -> WinRate | None:
    held = _of_family(reader, path, _WIN_RATES, "a win rate")
    if held is None:
        return None
    rate, confidence = finite(held.get("win_rate")), finite(held.get("confidence"))
    if rate is None:
        reader.complain(path, "holds no win rate that is a number")
        return None
    counts = {name: finite(held.get(name)) for name in ("wins", "losses", "ties", "failed")}
    n = finite(held.get("n"))
    return WinRate(
        file=reader.name(path),
        judge=_judge(held.get("judge")),
        model=_name(held.get("model")),
        baseline=_name(held.get("baseline")),
        n=None if n is None else int(n),
        rate=rate,
        interval=pair(held.get("interval")),
        confidence=0.95 if confidence is None else confidence,
        adjusted={
            name: estimate
            for key, name in (
                ("length_controlled", "length-controlled"),
                ("length_adjusted", "length-adjusted"),
            )
            if (estimate := _estimate(held.get(key)))[0] is not None
        },
        counts={name: int(count) for name, count in counts.items() if count is not None},
        order_agreement=finite(held.get("order_agreement")),
        notes=_texts(held.get("notes")),
    )


def _estimate(value: object) -> tuple[float | None, tuple[float, float] | None]:
    """A rate that is a number, or a record of a number and its interval."""
    number = finite(value)
    if number is not None:
        return number, None
    held = mapping(value)
    rate = next((finite(held[key]) for key in ("win_rate", "rate", "value", "estimate") if key in held), None)
    return rate, pair(held.get("interval"))


def read_benchmarks(reader: FolderReader) -> Benchmarks | None:
    """The benchmarks of a run."""
    path = reader.first(
        "evaluation/benchmarks.json", "benchmarks.json", "evaluation/benchmarks/benchmarks.json"
    )
    held = None if path is None else _of_family(reader, path, _BENCHMARKS, "a list of benchmarks")
    if path is None or held is None:
        return None
    tasks, unnamed = [], []
    for number, record in enumerate(records(held.get("tasks"))):
        if not isinstance(record.get("task"), str):
            unnamed.append(number)
            continue
        tasks.append(_benchmark(record))
    if unnamed:
        reader.complain(path, f"{rows_named('task', unnamed)}: no name, left out")
    return Benchmarks(
        file=reader.name(path),
        tasks=tuple(tasks),
        settings=mapping(held.get("settings")),
        notes=_texts(held.get("notes")),
    )


def _benchmark(record: Mapping[str, Any]) -> Benchmark:
    names = ("before", "before_stderr", "after", "after_stderr", "difference", "difference_stderr", "p_holm")
    values: dict[str, Any] = {name: finite(record.get(name)) for name in names}
    if values["difference"] is None and None not in (values["before"], values["after"]):
        values["difference"] = values["after"] - values["before"]
    n = finite(record.get("n"))
    return Benchmark(
        task=str(record["task"]),
        metric=_name(record.get("metric")),
        n=None if n is None else int(n),
        higher_is_better=record.get("higher_is_better") is not False,
        **values,
    )


def _of_family(reader: FolderReader, path: Path, family: str, what: str) -> Mapping[str, Any] | None:
    """A file's content if its schema is one of a family."""
    content = reader.json(path)
    if content is None:
        return None
    held = mapping(content)
    if not (text(held.get("schema")) or "").startswith(family):
        reader.complain(path, f"is not {what}: its schema is {held.get('schema')!r}, expected {family}1")
        return None
    return held


def _judge(value: object) -> str:
    """What a judge is, in a few words: its kind, and the model, annotators or function that it is."""
    held = mapping(value)
    if not held:
        return _name(value)
    kind = _name(held.get("judge"))
    which = next(
        (_name(held[key]) for key in ("model", "annotators", "function", "name") if held.get(key)), ""
    )
    return f"{which} ({kind})" if kind and which else kind or which


def _name(value: object) -> str:
    return "" if value is None else str(value)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
