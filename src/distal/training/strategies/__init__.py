"""Strategies: the ways from an optimizer batch to its gradient, each in a file of its own.

All give the same gradient to rounding; they differ in passes and memory. `base` has what they share: a `Step` is one
optimizer batch with the operations on it, a `StepStrategy` is anything with a name and `run(step)`.
"""

from __future__ import annotations

from distal.training.strategies.base import Setting, Step, StepResult, StepStrategy
from distal.training.strategies.recompute import Recompute
from distal.training.strategies.single import Single
from distal.training.strategies.streamed import Streamed

__all__ = ["Recompute", "Setting", "Single", "Step", "StepResult", "StepStrategy", "Streamed"]
