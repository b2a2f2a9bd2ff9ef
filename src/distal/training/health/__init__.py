"""Health of a run: what is measured at every step, when it is a finding, and what to do then."""

from __future__ import annotations

from distal.training.health.bias import GroupBias, sort_group_bias
from distal.training.health.callback import HealthCallback
from distal.training.health.findings import Finding, HealthSummary, health_summary
from distal.training.health.log import HEALTH_FILE
from distal.training.health.thresholds import HealthThresholds

__all__ = [
    "HEALTH_FILE",
    "Finding",
    "GroupBias",
    "HealthCallback",
    "HealthSummary",
    "HealthThresholds",
    "health_summary",
    "sort_group_bias",
]
