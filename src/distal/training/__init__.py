"""Training: the whole-batch engine, and the Trainer and settings around it."""

from __future__ import annotations

from distal.training.checkpoints import last_complete_checkpoint
from distal.training.config import AlignmentConfig
from distal.training.cutting import MicroBatchLimit
from distal.training.engine import StepOutput, WholeBatchEngine
from distal.training.health import HealthSummary, HealthThresholds, health_summary
from distal.training.metrics import score_metrics
from distal.training.trainer import AlignmentTrainer

__all__ = [
    "AlignmentConfig",
    "AlignmentTrainer",
    "HealthSummary",
    "HealthThresholds",
    "MicroBatchLimit",
    "StepOutput",
    "WholeBatchEngine",
    "health_summary",
    "last_complete_checkpoint",
    "score_metrics",
]
