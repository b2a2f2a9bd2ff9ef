"""Objectives: functions of an optimizer batch's scores, ignorant of models and devices.

`get_objective(name, **options)` builds one; calling it with `SequenceScores` gives an `ObjectiveOutput`.
Imports torch and `distal.transport` only.
"""

from __future__ import annotations

from distal.objectives.base import Objective
from distal.objectives.registry import ObjectiveInfo, describe_objective, get_objective, objective_names
from distal.objectives.scores import ObjectiveOutput, SequenceScores

__all__ = [
    "Objective",
    "ObjectiveInfo",
    "ObjectiveOutput",
    "SequenceScores",
    "describe_objective",
    "get_objective",
    "objective_names",
]
