"""From the results of single tasks to rows of a table: differences, averages over groups, tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distal.errors import DataError
from distal.evaluation.benchmarks.paired import (
    holm,
    normal_test,
    paired_difference,
    paired_test,
    pooled_stderr,
    unweighted_stderr,
)
from distal.evaluation.benchmarks.records import (
    SIDES,
    Benchmark,
    BenchmarkReport,
    BenchmarkRow,
    Side,
    TaskOutcome,
)

__all__ = ["compare_benchmarks"]

Outcomes = Mapping[Side, Mapping[str, TaskOutcome]]


def compare_benchmarks(
    benchmarks: Sequence[Benchmark],
    outcomes: Outcomes,
    *,
    settings: dict[str, Any],
    versions: dict[str, Any],
    notes: Iterable[str] = (),
) -> BenchmarkReport:
    """Compares two models on the same documents.

    Args:
        benchmarks: what the rows are about.
        outcomes: side -> task -> result; `before` may be left out.
        settings: what the report is to record of how it came about.
        versions: of software.
        notes: remarks that come before those found here.

    Raises:
        DataError: the two sides saw different documents.
    """
    rows: list[BenchmarkRow] = []
    subtasks: list[BenchmarkRow] = []
    for benchmark in benchmarks:
        parts = [row for task in benchmark.tasks for row in _task_rows(task, outcomes)]
        if not benchmark.weighted:
            rows += parts
            continue
        subtasks += [replace(row, p_value=None) for row in parts]
        rows += _group_rows(benchmark, parts, outcomes)
    adjusted = holm([row.p_value for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
    identical = _identical(outcomes)
    tasks = {name: result.version for name, result in sorted(outcomes["after"].items())}
    return BenchmarkReport(
        rows=rows,
        subtasks=subtasks,
        groups={b.name: list(b.tasks) for b in benchmarks if b.weighted},
        settings=settings,
        versions=versions | {"tasks": tasks},
        notes=[*notes, *_notes(benchmarks, outcomes, rows, identical)],
        identical=identical,
    )


def _task_rows(task: str, outcomes: Outcomes) -> list[BenchmarkRow]:
    """Every metric of one task."""
    after = outcomes["after"][task]
    before = outcomes["before"][task] if "before" in outcomes else None
    if before is not None:
        _check_same_documents(before, after)
    return [_metric_row(metric, before, after) for metric in after.metrics]


def _metric_row(metric: str, before: TaskOutcome | None, after: TaskOutcome) -> BenchmarkRow:
    difference = stderr = p_value = None
    if before is not None:
        difference = after.metrics[metric] - before.metrics[metric]
        old, new = before.values(metric), after.values(metric)
        if old is not None and new is not None:
            difference, stderr = paired_difference(old, new)
            p_value = paired_test(old, new)
    return BenchmarkRow(
        task=after.task,
        metric=metric,
        before=None if before is None else before.metrics[metric],
        before_stderr=None if before is None else before.stderrs[metric],
        after=after.metrics[metric],
        after_stderr=after.stderrs[metric],
        difference=difference,
        difference_stderr=stderr,
        p_value=p_value,
        p_holm=None,
        n=after.n,
        higher_is_better=after.higher_is_better.get(metric, True),
    )


def _group_rows(
    benchmark: Benchmark, parts: Sequence[BenchmarkRow], outcomes: Outcomes
) -> list[BenchmarkRow]:
    """The averages of a group, with lm-evaluation-harness's weights and standard errors."""
    rows: list[BenchmarkRow] = []
    for metric in dict.fromkeys(row.metric for row in parts):
        weighted = benchmark.weighted.get(metric.partition(",")[0])
        if weighted is None:
            continue
        members = [row for row in parts if row.metric == metric]
        over = _Average([row.n for row in members], weighted)
        after = over.mean([row.after for row in members])
        difference = over.mean([row.difference for row in members])
        stderr = over.stderr([row.difference_stderr for row in members])
        rows.append(
            replace(
                members[0],
                task=benchmark.name,
                before=over.mean([row.before for row in members]),
                before_stderr=over.stderr([row.before_stderr for row in members]),
                after=members[0].after if after is None else after,
                after_stderr=over.stderr([row.after_stderr for row in members]),
                difference=difference,
                difference_stderr=stderr,
                p_value=_group_test(members, difference, stderr, outcomes if weighted else None),
                n=sum(over.sizes),
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class _Average:
    """How a group averages over its tasks, which have `sizes` documents: over documents, or over tasks."""

    sizes: Sequence[int]
    weighted: bool

    def mean(self, values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        weights = self.sizes if self.weighted else [1] * len(self.sizes)
        return math.fsum(w * v for w, v in zip(weights, known, strict=True)) / sum(weights)

    def stderr(self, values: Sequence[float | None]) -> float | None:
        return pooled_stderr(values, self.sizes) if self.weighted else unweighted_stderr(values)


def _group_test(
    members: Sequence[BenchmarkRow], difference: float | None, stderr: float | None, outcomes: Outcomes | None
) -> float | None:
    """P-value of a group's difference: over all its documents where these weigh alike, else from its standard error."""
    if difference is None:
        return None
    if outcomes is None:
        return normal_test(difference, stderr)
    both: dict[Side, list[float]] = {}
    for side in SIDES:
        values = [outcomes[side][row.task].values(row.metric) for row in members]
        both[side] = [value for task in values for value in task or ()]
    return paired_test(both["before"], both["after"])


def _check_same_documents(before: TaskOutcome, after: TaskOutcome) -> None:
    """Refuses to compare different documents, which would be the case where a file changed between two calls."""
    seen = [[(d["doc_id"], d["filter"], d["doc_hash"]) for d in side.documents] for side in (before, after)]
    if seen[0] != seen[1]:
        raise DataError(
            f"{after.task}: the two models were not evaluated on the same documents ({before.n} before, {after.n} "
            "after): the data changed in between. Evaluate again into another folder, or with --overwrite."
        )


def _identical(outcomes: Outcomes) -> bool:
    """Whether both models responded alike, bit for bit, to everything."""
    if "before" not in outcomes:
        return False
    before, after = outcomes["before"], outcomes["after"]
    return all(
        [d["responses"] for d in before[task].documents] == [d["responses"] for d in after[task].documents]
        for task in after
    )


def _notes(
    benchmarks: Sequence[Benchmark], outcomes: Outcomes, rows: Sequence[BenchmarkRow], identical: bool
) -> Iterator[str]:
    """Cautions that follow from the results."""
    if identical:
        yield (
            "both models gave the same responses, bit for bit, on every document: every difference is exactly 0"
        )
    for side, results in outcomes.items():
        requests = sum(result.requests for result in results.values())
        cut = {each.name: sum(results[task].cut for task in each.tasks) for each in benchmarks}
        if any(cut.values()):
            worst = max(cut, key=lambda name: cut[name])
            yield (
                f"{side}: {sum(cut.values()):,} of {requests:,} requests were longer than the model's context and lost "
                f"their beginning, most of them in {worst} ({cut[worst]:,})"
            )
    tested = sum(row.p_holm is not None for row in rows)
    if tested > 1 and not identical:
        yield (
            f"{tested} differences are tested at once: p-values are adjusted by Holm's method, so that the chance of "
            "any false alarm among them stays below the level one reads them at"
        )
