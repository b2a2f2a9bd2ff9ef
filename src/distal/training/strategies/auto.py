"""`auto`: the cheapest strategy that is exact and fits into memory, measured once and told."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from distal.errors import ModelError
from distal.training.strategies.base import Step, StepResult, StepStrategy
from distal.training.strategies.budget import Budget, graph_sizes, mib
from distal.training.strategies.choice import Choice
from distal.training.strategies.deferred import Deferred, adapter_bytes, unit_rows
from distal.training.strategies.recompute import Recompute
from distal.training.strategies.retain import Retain
from distal.training.strategies.single import Single

__all__ = ["Auto"]

logger = logging.getLogger(__name__)

_WORTH_KEEPING = 0.1
"""Retaining less than this share of the graphs saves too little to be worth the memory."""


class Auto:
    """Takes `single` wherever one pass is exact; otherwise decides at the first step and stays with it.

    In this order: `retain` where all graphs fit; `deferred` where the model trains LoRA matrices and the gradients
    of all units fit beside the graph of one micro-batch; else whichever of the two saves more of the second pass;
    else `recompute`. All ranks decide alike, since they decide from the same numbers. A run that goes on from a
    checkpoint stays with what it had chosen, unless that does not fit any more.

    Attributes:
        reason: what was chosen and why, empty until then.
    """

    name = "auto"

    def __init__(self, budget: Budget, dtype: torch.dtype | None = None) -> None:
        self.budget, self.dtype = budget, dtype
        self.reason = ""
        self._single = Single()
        self._chosen: StepStrategy | None = None

    def run(self, step: Step) -> StepResult:
        """See `StepStrategy`."""
        return self._for(step).run(step)

    def kept_bytes(self, step: Step) -> int:
        """What the chosen strategy keeps; chooses if need be."""
        return self._for(step).kept_bytes(step)

    def choice(self) -> Choice | None:
        """That of the chosen strategy; before there is one, what the run had settled on earlier."""
        return self.budget.earlier if self._chosen is None else self._chosen.choice()

    def _for(self, step: Step) -> StepStrategy:
        if not step.coupled_and_cut:
            self.reason = self.reason or "single: one pass is exact here"
            return self._single
        if self._chosen is None:
            self._chosen, why = self._choose(step)
            self.reason = f"{self._chosen.name}: {why}"
            logger.info("strategy %s", self.reason)
        return self._chosen

    def _choose(self, step: Step) -> tuple[StepStrategy, str]:
        if step.setting.sharded:
            return Recompute(), "weights are sharded over ranks"
        budget = self.budget.bytes(step)
        if self.budget.earlier is not None:
            why = f"as before the checkpoint, where it kept {mib(self.budget.earlier.kept)}"
            return self._named(self.budget.earlier.strategy), f"{why}; {mib(budget)} may be used"
        largest, graphs = (step.over_ranks(size, dist.ReduceOp.MAX) for size in graph_sizes(step))
        n_units = step.over_ranks(len(step.rows) // unit_rows(step), dist.ReduceOp.MAX)
        sizes = f"graphs of all micro-batches take {mib(graphs)}"
        room = max(0, budget - largest)  # unit gradients lie beside the graph that they come from
        try:
            units = n_units * adapter_bytes(step.model, self.dtype)
            sizes += f", adapter gradients of {n_units} units {mib(units)} beside one graph of {mib(largest)}"
        except ModelError:
            units = 0
        why = f"{sizes}, of {mib(budget)} that may be used"
        if graphs <= budget:
            return self._named("retain"), why
        if 0 < units <= room or (units and room / units > max(budget / graphs, _WORTH_KEEPING)):
            return self._named("deferred"), why
        if budget / graphs >= _WORTH_KEEPING:
            return self._named("retain"), why
        return self._named("recompute"), why

    def _named(self, name: str) -> StepStrategy:
        if name == "retain":
            return Retain(self.budget)
        return Deferred(self.budget, self.dtype) if name == "deferred" else Recompute()
