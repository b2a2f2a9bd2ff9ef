"""What the tests of interrupted runs share: their length, a way to stop, and a comparison bit by bit."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

N_PAIRS = 20
STEPS = 9
"""Of batches of 8: three epochs of three steps, the last step of an epoch with 4 pairs."""


class StopAfter(TrainerCallback):
    """Ends training in good order after a step; a kill is the business of test_processes."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def state_of(trainer):
    optimizer: Any = trainer.optimizer
    moments = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    return [*(p.detach().clone() for p in trainer.model.parameters()), *moments]


def equal(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
