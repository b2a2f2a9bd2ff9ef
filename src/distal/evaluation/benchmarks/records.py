"""What a benchmark run holds: results of one task under one model, and the comparison of two models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distal.evaluation.files import write_atomically

__all__ = ["SCHEMA", "SIDES", "Benchmark", "BenchmarkReport", "BenchmarkRow", "Side", "TaskOutcome"]

SCHEMA = "distal.benchmarks/1"
"""Name and version of the JSON form; the number rises when a key changes its meaning or goes away."""

Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What one row of the table is about: a task, or a group of tasks with a common average.

    Attributes:
        name: of the task or group.
        tasks: names of its tasks; one for a task.
        weighted: of each metric that the group averages, whether a task counts by its number of documents (True) or
            every task alike (False); empty for a task on its own.
    """

    name: str
    tasks: tuple[str, ...]
    weighted: Mapping[str, bool] = field(default_factory=dict[str, bool])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """The result of one task under one model.

    Attributes:
        task: name of the task.
        version: of the task, as its author counts.
        metrics: value of each metric, as lm-evaluation-harness aggregates it. A metric that is computed after a filter
            of the responses is called `metric,filter`.
        stderrs: standard error of each, as lm-evaluation-harness gives it; None where it gives none.
        higher_is_better: direction of each metric.
        n: documents evaluated.
        n_total: documents of the task.
        requests: what the model was asked, texts to score or to go on with.
        cut: requests whose beginning was cut off to fit the model's context.
        seconds: wall time.
        settings: what the result depends on.
        documents: one record for each document and filter, in the order of the task.
    """

    task: str
    version: str
    metrics: dict[str, float]
    stderrs: dict[str, float | None]
    higher_is_better: dict[str, bool]
    n: int
    n_total: int
    requests: int
    cut: int
    seconds: float
    settings: dict[str, Any]
    documents: list[dict[str, Any]]

    def values(self, metric: str) -> list[float] | None:
        """Value of each document in its order; None where the metric has none that their mean would be."""
        name, _, wanted = metric.partition(",")
        values = [
            record["metrics"].get(name) for record in self.documents if record["filter"] == (wanted or "none")
        ]
        if not values or not all(isinstance(value, int | float) for value in values):
            return None
        numbers = [float(value) for value in values]
        mean = sum(numbers) / len(numbers)
        return numbers if abs(mean - self.metrics[metric]) <= 1e-9 * max(1.0, abs(mean)) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRow:
    """One metric of one benchmark, before and after.

    Attributes:
        task: name of the task or group.
        metric: name of the metric, `metric,filter` where responses are filtered.
        before: value for the model before; None where none was given.
        before_stderr: its standard error.
        after: value for the model that is evaluated.
        after_stderr: its standard error.
        difference: after minus before.
        difference_stderr: standard error of the mean of the documents' differences; None where the metric is no mean
            over documents, or there is one document only.
        p_value: of the test that both are equally good, see `paired_test`.
        p_holm: the former, adjusted for the number of rows, see `holm`.
        n: documents.
        higher_is_better: direction of the metric.
    """

    task: str
    metric: str
    before: float | None
    before_stderr: float | None
    after: float
    after_stderr: float | None
    difference: float | None
    difference_stderr: float | None
    p_value: float | None
    p_holm: float | None
    n: int
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkReport:
    """The comparison of two models on benchmarks.

    Attributes:
        rows: one for each benchmark and metric.
        subtasks: the same for each task of a group, without tests.
        groups: tasks of each group.
        settings: models, suite, number of examples in the prompt, limits, seed, dtype, batch size, chat template.
        versions: of Distal, lm-evaluation-harness and what else shapes a result; `tasks` holds those of the tasks.
        notes: cautions about how far the numbers can be trusted.
        identical: whether both models gave the same response, bit for bit, on every document.
    """

    rows: list[BenchmarkRow]
    subtasks: list[BenchmarkRow]
    groups: dict[str, list[str]]
    settings: dict[str, Any]
    versions: dict[str, Any]
    notes: list[str]
    identical: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a `schema` version; what is undefined is None, never NaN."""
        content = asdict(self)
        return {"schema": SCHEMA, "tasks": content.pop("rows")} | content

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        return write_atomically(path, (self.to_json() + "\n").encode())
