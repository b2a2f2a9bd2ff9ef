"""What the page states, for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distal.report.page.certificates import Certificate
from distal.report.page.generations import side_by_side
from distal.report.page.run import Run
from distal.report.page.views.data import data_missing
from distal.report.page.views.evaluations import evaluations_missing
from distal.report.page.views.parts import Missing
from distal.report.page.views.rewards import rewards_missing
from distal.report.page.views.samples import samples_missing
from distal.report.page.views.settings import config_missing, differences_table
from distal.report.page.views.training import health_missing, training_missing
from distal.report.page.wording import comparability, headline

__all__ = ["SCHEMA", "statements"]

SCHEMA = "distal.report/1"
"""Name and version of the JSON form; the number rises when a key changes its meaning or goes away."""


def statements(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page about these runs states, as plain values for JSON; what is unknown is None."""
    differences = differences_table(runs)
    return {
        "schema": SCHEMA,
        "runs": [_run(run) for run in runs],
        "comparability": comparability(runs),
        "differences": {}
        if differences is None
        else {str(row[0]): dict(zip(differences.head[1:], row[1:], strict=True)) for row in differences.rows},
    }


def _run(run: Run) -> dict[str, Any]:
    said = headline(run.certificate)
    table = None if run.samples is None else side_by_side([(run.name, run.samples)])
    health = run.health
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state.get("state"),
        "objective": run.objective,
        "headline": said.title,
        "sentence": said.sentence,
        "certificate": None if run.certificate is None else _certificate(run.certificate),
        "training": None
        if run.training is None
        else {
            "last_step": run.training.last_step,
            "last": {name: series.values[-1] for name, series in run.training.series.items()},
        },
        "health": None
        if health is None
        else {
            "steps": health.last_step,
            "findings": [
                {"guard": o.finding.guard, "severity": o.finding.severity} for o in health.occurrences
            ],
        },
        "win_rates": [
            {
                "file": rate.file,
                "judge": rate.judge,
                "n": rate.n,
                "win_rate": rate.rate,
                "interval": rate.interval,
            }
            for rate in run.win_rates
        ],
        "benchmarks": []
        if run.benchmarks is None
        else [
            {"task": task.task, "metric": task.metric, "before": task.before, "after": task.after}
            | {"difference": task.difference, "interval": task.interval}
            for task in run.benchmarks.tasks
        ],
        "samples": 0 if table is None else len(table.texts),
        "missing": [_missing(item) for item in _all_missing(run)],
        "problems": [{"file": problem.file, "message": problem.message} for problem in run.problems],
    }


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "file": certificate.file,
        "decision": certificate.decision,
        "verdict": certificate.verdict,
        "n_preferred": certificate.n_preferred,
        "n_other": certificate.n_other,
        "violation_ratio": certificate.ratio,
        "violation_ratio_ci": certificate.ratio_ci,
        "mean_gap": certificate.mean_gap,
        "mean_gap_ci": certificate.mean_gap_ci,
        "auc": certificate.auc,
        "accuracy": certificate.accuracy,
        "confidence": certificate.confidence,
        "notes": list(certificate.notes),
    }


def _all_missing(run: Run) -> list[Missing]:
    parts = (
        rewards_missing,
        evaluations_missing,
        samples_missing,
        training_missing,
        health_missing,
        data_missing,
        config_missing,
    )
    return [item for part in parts for item in part([run])]


def _missing(item: Missing) -> dict[str, str]:
    return {"what": item.what, "file": item.file, "command": item.command}
