"""Strategies: the ways from an optimizer batch to its gradient, each in a file of its own.

All give the same gradient to rounding; they differ in passes and memory. `base` has what they share: a `Step` is one
optimizer batch with the operations on it, a `StepStrategy` is anything with a name and `run(step)`.

- `single`: one pass, where one is exact.
- `recompute`: two passes, the memory of one micro-batch.
- `retain`: one pass for the micro-batches whose graphs fit into memory, two for the others.
- `deferred`: one pass; for LoRA, keeps one adapter gradient per unit until the coefficients are known.
- `auto`: measures, chooses, says why.
"""

from __future__ import annotations

from distal.training.strategies.auto import Auto
from distal.training.strategies.base import Setting, Step, StepResult, StepStrategy
from distal.training.strategies.budget import Budget
from distal.training.strategies.choice import Choice
from distal.training.strategies.deferred import Deferred
from distal.training.strategies.recompute import Recompute
from distal.training.strategies.retain import Retain
from distal.training.strategies.single import Single
from distal.training.strategies.streamed import Streamed

__all__ = [
    "Auto",
    "Budget",
    "Choice",
    "Deferred",
    "Recompute",
    "Retain",
    "Setting",
    "Single",
    "Step",
    "StepResult",
    "StepStrategy",
    "Streamed",
]
