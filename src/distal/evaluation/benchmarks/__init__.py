"""Benchmarks through lm-evaluation-harness: a model before and after, over the same documents."""

from __future__ import annotations

from distal.evaluation.benchmarks.comparison import compare_benchmarks
from distal.evaluation.benchmarks.paired import holm, paired_difference, paired_test
from distal.evaluation.benchmarks.records import SCHEMA, BenchmarkReport, BenchmarkRow, TaskOutcome

__all__ = [
    "SCHEMA",
    "BenchmarkReport",
    "BenchmarkRow",
    "TaskOutcome",
    "compare_benchmarks",
    "holm",
    "paired_difference",
    "paired_test",
]
