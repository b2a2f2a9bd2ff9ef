"""Workflows: whole jobs from options to files, as the command line runs them and as a script may call them.

The names below are imported when they are first used, so that importing this package stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distal.workflow.alignment import AlignResult, align
    from distal.workflow.benchmark_options import BenchmarkOptions
    from distal.workflow.benchmarking import run_benchmarks
    from distal.workflow.certification import CertifyOptions, certify
    from distal.workflow.environment import environment
    from distal.workflow.generation import GenerateOptions, generate
    from distal.workflow.interrupt import RunInterrupted
    from distal.workflow.options import AlignOptions, DataOptions, LoraOptions, ModelOptions
    from distal.workflow.resolve import resolve_options
    from distal.workflow.run_folder import RunFolder
    from distal.workflow.winrates import WinRateOptions, evaluate_win_rate

__all__ = [
    "AlignOptions",
    "AlignResult",
    "BenchmarkOptions",
    "CertifyOptions",
    "DataOptions",
    "GenerateOptions",
    "LoraOptions",
    "ModelOptions",
    "RunFolder",
    "RunInterrupted",
    "WinRateOptions",
    "align",
    "certify",
    "environment",
    "evaluate_win_rate",
    "generate",
    "resolve_options",
    "run_benchmarks",
]

_HOMES = {
    "AlignOptions": "options",
    "AlignResult": "alignment",
    "BenchmarkOptions": "benchmark_options",
    "CertifyOptions": "certification",
    "DataOptions": "options",
    "GenerateOptions": "generation",
    "LoraOptions": "options",
    "ModelOptions": "options",
    "RunFolder": "run_folder",
    "RunInterrupted": "interrupt",
    "WinRateOptions": "winrates",
    "align": "alignment",
    "certify": "certification",
    "environment": "environment",
    "evaluate_win_rate": "winrates",
    "generate": "generation",
    "resolve_options": "resolve",
    "run_benchmarks": "benchmarking",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
