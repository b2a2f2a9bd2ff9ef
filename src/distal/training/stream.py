"""Running laws of the rewards: the state behind order statistics that come from more than one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distal.errors import ConfigError, OutputError
from distal.objectives import Objective, ObjectiveOutput
from distal.objectives.aot import Aot
from distal.objectives.streaming import RunningLaws, check_streamable, costs_of_other, costs_of_preferred
from distal.training.batch import ScoredBatch
from distal.transport.laws import WeightedLaw, weighted_law
from distal.types import DataKind

__all__ = ["STREAM_FILE", "OrderStatistics", "RunningLaw", "ScoredUnits", "initial_statistics"]

STREAM_FILE = "order_statistics.safetensors"
"""Name of the state's file in a checkpoint."""


class ScoredUnits(Protocol):
    """What the initial laws need of a training set."""

    kind: DataKind

    def __len__(self) -> int: ...

    @property
    def reference_scores(self) -> NDArray[np.float64] | None:
        """Reference score of each row, nats, (n_rows,)."""
        ...

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Label of each unit; asked for only where the data is unpaired."""
        ...


def initial_statistics(
    objective: Objective, dataset: ScoredUnits, *, global_batch_size: int, half_life: float, capacity: int
) -> OrderStatistics:
    """The laws before the first step, when the policy is the reference.

    For `aot` the fixed law is that of the reference's margins over the whole data set, and the policy's margins
    start with the same law. Otherwise both laws are of rewards, which all start at zero.

    Args:
        objective: `aot` or `aot_unpaired`.
        dataset: with reference scores.
        global_batch_size: units per step, which says how much past the initial law stands for.
        half_life: optimizer steps.
        capacity: values that a law keeps at most.

    Raises:
        ConfigError: the objective cannot do without its sorted batch.
        ValueError: reference scores are not known yet.
    """
    if dataset.reference_scores is None:
        raise ValueError("running laws begin with the scores of the reference, which are not known yet")
    shares = (1.0, 1.0)
    if dataset.kind == "unpaired":
        share = float(dataset.labels.mean())
        shares = (share, 1 - share)

    def law(initial: Tensor, share: float) -> RunningLaw:
        return RunningLaw(initial, per_step=share * global_batch_size, half_life=half_life, capacity=capacity)

    if isinstance(objective, Aot):
        scores = torch.from_numpy(dataset.reference_scores)
        margins = scores[0::2] - scores[1::2]
        return OrderStatistics(objective, law(margins, 1.0), weighted_law(margins))
    zero = torch.zeros(1, dtype=torch.float64)
    return OrderStatistics(objective, law(zero, shares[0]), law(zero, shares[1]))


class RunningLaw:
    """An exponentially weighted law of the values of past steps, begun as a law that has always stood.

    At step t a value of step s < t weighs `2^(-(t - s) / half_life)`. The initial law stands for all steps before
    the first: its weight is `per_step * sum over ages above t of 2^(-age / half_life)`.

    Args:
        initial: atoms of the initial law, equally weighted, (k,), nats.
        per_step: expected number of values per step.
        half_life: in optimizer steps.
        capacity: values kept at most, the latest.
    """

    def __init__(self, initial: Tensor, *, per_step: float, half_life: float, capacity: int) -> None:
        self.initial = initial.detach().double()
        self.per_step, self.half_life, self.capacity = per_step, half_life, capacity
        self.step = 0
        self.values = torch.zeros(0, dtype=torch.float64)
        self.born = torch.zeros(0, dtype=torch.int64)

    def table(self) -> WeightedLaw:
        """The law as it stands before the present step."""
        weights = torch.exp2(-(self.step - self.born).double() / self.half_life)
        past = (
            self.per_step
            * 2 ** (-(self.step + 1) / self.half_life)
            / -math.expm1(-math.log(2) / self.half_life)
        )
        begun = torch.full_like(self.initial, past / self.initial.numel())
        return weighted_law(torch.cat([self.initial, self.values]), torch.cat([begun, weights]))

    def update(self, values: Tensor) -> None:
        """Take in the values of one step, in an order that is the same on all ranks."""
        values = values.detach().double().cpu()
        if not bool(torch.isfinite(values).all()):
            raise ValueError("a running law takes finite values only")
        born = torch.full(values.shape, self.step, dtype=torch.int64)
        self.values = torch.cat([self.values, values])[-self.capacity :].contiguous()
        self.born = torch.cat([self.born, born])[-self.capacity :].contiguous()
        self.step += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the initial law and the options do not give."""
        return {"values": self.values, "born": self.born, "step": torch.tensor(self.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            ValueError: not the state of a running law.
        """
        if set(state) != {"values", "born", "step"}:
            raise ValueError(f"expected values, born and step, got {sorted(state)}")
        values, born, step = state["values"], state["born"], int(state["step"])
        sound = values.ndim == 1 and values.shape == born.shape and values.dtype == torch.float64
        if not sound or not bool(torch.isfinite(values).all()) or bool((born >= step).any()):
            raise ValueError("its values and their steps do not belong together")
        self.values, self.born, self.step = values[-self.capacity :], born[-self.capacity :], step


class OrderStatistics:
    """Order statistics of an AOT objective from running laws.

    Args:
        objective: `aot` or `aot_unpaired` with the hard sort over the whole batch.
        u: law of what should dominate: policy margins when paired, rewards of preferred completions otherwise.
        v: law of the other rewards; for `aot` the fixed law of the reference's margins.

    Raises:
        ConfigError: the objective cannot do without its sorted batch.
    """

    def __init__(self, objective: Objective, u: RunningLaw, v: RunningLaw | WeightedLaw) -> None:
        try:
            self.objective = check_streamable(objective)
        except ValueError as error:
            raise ConfigError(f"order_statistics: stream: {error}") from error
        self.paired = isinstance(self.objective, Aot)
        if self.paired == isinstance(v, RunningLaw):
            raise ValueError(
                "v must be the fixed law of the reference for aot, a running law for aot_unpaired"
            )
        self.u, self.v = u, v
        self._laws: RunningLaws | None = None

    @property
    def laws(self) -> RunningLaws:
        """Both laws as they stand before the present step."""
        if self._laws is None:
            self._laws = RunningLaws(
                self.u.table(), self.v.table() if isinstance(self.v, RunningLaw) else self.v
            )
        return self._laws

    def samples(self, batch: ScoredBatch, policy: Tensor) -> tuple[Tensor, Tensor]:
        """What u and v are in a batch or a part of one; v is empty for `aot`."""
        if self.paired:
            return policy[0::2] - policy[1::2], policy[:0]
        reward = policy - batch.reference
        return reward[batch.desirable], reward[~batch.desirable]

    def counts(self, desirable: list[bool]) -> tuple[int, int]:
        """How many samples of u and v rows with these labels hold."""
        n = sum(desirable)
        return (n, 0) if self.paired else (n, len(desirable) - n)

    def evaluate(self, part: ScoredBatch, counts: tuple[int, int]) -> tuple[ObjectiveOutput, Tensor]:
        """Share of a part in the loss, and its coefficients, (rows,), given the whole batch's counts."""
        with torch.enable_grad():
            policy = part.policy.detach().requires_grad_()
            u, v = self.samples(part, policy)
            total = costs_of_preferred(self.objective, u, self.laws).sum() / counts[0]
            if counts[1]:
                total = total + costs_of_other(self.objective, v, self.laws).sum() / counts[1]
            (gradient,) = torch.autograd.grad(total, policy)
        # Unpaired, each side's mean estimates the same transport cost: the loss is their mean, while the gradient
        # is the sum of both, as each side moves samples of its own.
        loss = total.detach() / (2 if counts[1] else 1)
        return ObjectiveOutput(loss, {}), gradient

    def update(self, batch: ScoredBatch) -> None:
        """Take in a whole batch, gathered in its fixed order."""
        u, v = self.samples(batch, batch.policy)
        self.u.update(u)
        if isinstance(self.v, RunningLaw):
            self.v.update(v)
        self._laws = None

    def state_dict(self) -> dict[str, Tensor]:
        """The running laws' states by name."""
        laws = {"u": self.u, "v": self.v}
        return {
            f"{side}.{name}": tensor
            for side, law in laws.items()
            if isinstance(law, RunningLaw)
            for name, tensor in law.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            ValueError: not a state of this objective.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"expected {sorted(self.state_dict())}, got {sorted(state)}")
        for side, law in (("u", self.u), ("v", self.v)):
            if isinstance(law, RunningLaw):
                law.load_state_dict(
                    {name[2:]: tensor for name, tensor in state.items() if name.startswith(f"{side}.")}
                )
        self._laws = None

    def save(self, folder: str | Path) -> None:
        """Write the state into a checkpoint."""
        from safetensors.torch import save_file

        save_file(self.state_dict(), Path(folder) / STREAM_FILE)

    def load(self, folder: str | Path) -> None:
        """Read the state of a checkpoint.

        Raises:
            OutputError: the file is missing, damaged or of another objective.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder) / STREAM_FILE
        try:
            self.load_state_dict(load_file(path))
        except (OSError, ValueError, SafetensorError) as error:
            raise OutputError(
                f"{path}: the running laws of order_statistics: stream cannot be read ({error}). Resume from another "
                "checkpoint, or start again."
            ) from error
