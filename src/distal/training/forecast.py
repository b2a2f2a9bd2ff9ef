"""What a run will take, measured on a few of its micro-batches before it is started."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from distal.errors import ConfigError
from distal.scoring import score_row_list
from distal.training.peak import bytes_in_use, measured_peak
from distal.training.trainer import AlignmentTrainer
from distal.types import TokenRow

__all__ = ["Forecast", "forecast"]

_BATCHES_LOOKED_AT = 50
"""Optimizer batches whose lengths are looked at, to find the largest micro-batch and the usual number of tokens."""
_MICRO_BATCHES_TRIED = 8
"""Of one optimizer batch, the largest and the smallest among them; all of them where it has no more."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Memory and time of a run on one device.

    Attributes:
        device: where the model lies.
        strategy: how the whole batch's gradient is computed, and why.
        memory: bytes by part; their sum is `peak_bytes`. `process` is everything that was there before, without the
            weights: libraries, data and, on the host, what Python holds.
        peak_bytes: expected peak: resident memory of the process on the host, allocated memory on a GPU.
        steps: optimizer steps of the run.
        tokens_per_step: with padding, mean over the optimizer batches looked at.
        seconds_per_step: forward and backward passes and the optimizer.
        seconds_training: all steps.
        seconds_scoring: reference scores of all data, and the scores of the held-out data at the end.
    """

    device: str
    strategy: str
    memory: dict[str, int]
    peak_bytes: int
    steps: int
    tokens_per_step: int
    seconds_per_step: float
    seconds_training: float
    seconds_scoring: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.seconds_training + self.seconds_scoring

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "seconds": self.seconds}


def forecast(trainer: AlignmentTrainer) -> Forecast:
    """Run two optimizer steps on a few micro-batches of a batch, from the largest to the smallest, and extrapolate.

    What is tried comes in the order in which a run does it, scores before steps, and what only this function does
    comes last: how much of its free memory the C library gives back depends on everything that was allocated before.

    The trainer must not be used for training afterwards: the trial moves its weights. Nothing is written to disk.
    Rewards are made up, so hinges with satisfied margins, which skip work, are counted as if they had to do it.

    Raises:
        ConfigError: started as one of several processes.
    """
    if trainer.args.world_size > 1:
        raise ConfigError("a dry run measures one device: start it without torchrun or accelerate launch")
    model: Any = trainer.model
    device = next(model.parameters()).device
    model.train()
    _switch_checkpointing_on(trainer)
    before = bytes_in_use(device)
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    batches = list(_batches(trainer))
    batch = max(batches, key=lambda rows: _largest(trainer, rows))
    trial = _trial_rows(trainer, batch)
    seconds_per_scored_token = _seconds_per_scored_token(trainer, trial)
    optimizer: Any = trainer.create_optimizer()
    _step(trainer, optimizer, trial)  # allocates the optimizer's moments, and warms up
    with measured_peak(device) as peak:
        seconds, seconds_optimizer = _step(trainer, optimizer, trial, keep_gradients=True)
    gradients = _bytes(p.grad for p in model.parameters() if p.grad is not None)
    moments = _bytes(t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t))
    kept, kept_in_trial = (trainer.engine.kept_bytes(model, rows) for rows in (batch, trial))
    known = {"weights": weights, "gradients": gradients, "optimizer": moments, "kept by the strategy": kept}
    base = max(0, before - weights)
    one = max(0, peak.bytes - base - weights - gradients - moments - kept_in_trial)
    memory = {"process": base, **known, "one micro-batch": one}
    tokens = [_padded_tokens(trainer, rows) for rows in batches]
    per_step = seconds / _padded_tokens(trainer, trial) * (sum(tokens) / len(tokens)) + seconds_optimizer
    steps = _steps(trainer)
    return Forecast(
        device=str(device),
        strategy=trainer.engine.choice,
        memory=memory,
        peak_bytes=sum(memory.values()),
        steps=steps,
        tokens_per_step=round(sum(tokens) / len(tokens)),
        seconds_per_step=per_step,
        seconds_training=per_step * steps,
        seconds_scoring=seconds_per_scored_token * _tokens_to_score(trainer),
    )


def _batches(trainer: AlignmentTrainer) -> Iterator[list[TokenRow]]:
    """Rows of the first optimizer batches, with rewards that leave no coefficient at zero."""
    for batch in islice(trainer.get_train_dataloader(), _BATCHES_LOOKED_AT):
        yield [dataclasses.replace(row, reference_score=0.0) for row in batch]


def _groups(trainer: AlignmentTrainer, rows: Sequence[TokenRow]) -> list[list[int]]:
    return trainer.engine.setting.limit.cut(trainer.engine.setting.kind, rows)


def _padded(rows: Sequence[TokenRow], group: Sequence[int]) -> int:
    return len(group) * max(len(rows[i].input_ids) for i in group)


def _padded_tokens(trainer: AlignmentTrainer, rows: Sequence[TokenRow]) -> int:
    return sum(_padded(rows, group) for group in _groups(trainer, rows))


def _largest(trainer: AlignmentTrainer, rows: Sequence[TokenRow]) -> int:
    return max(_padded(rows, group) for group in _groups(trainer, rows))


def _trial_rows(trainer: AlignmentTrainer, rows: Sequence[TokenRow]) -> list[TokenRow]:
    """The rows of micro-batches of all sizes, evenly from the largest to the smallest."""
    groups = sorted(_groups(trainer, rows), key=lambda group: -_padded(rows, group))
    tried = min(_MICRO_BATCHES_TRIED, len(groups))
    chosen = [round(k * (len(groups) - 1) / max(1, tried - 1)) for k in range(tried)]
    return [rows[i] for k in chosen for i in sorted(groups[k])]


def _step(
    trainer: AlignmentTrainer, optimizer: Any, rows: list[TokenRow], *, keep_gradients: bool = False
) -> tuple[float, float]:
    """Seconds of the gradient and of the optimizer."""
    model: Any = trainer.model
    optimizer.zero_grad()
    start = _now(trainer)
    trainer.engine.step(model, rows)
    between = _now(trainer)
    optimizer.step()
    end = _now(trainer)
    if not keep_gradients:
        optimizer.zero_grad()
    return between - start, end - between


def _now(trainer: AlignmentTrainer) -> float:
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _switch_checkpointing_on(trainer: AlignmentTrainer) -> None:
    """As the Trainer does when training starts."""
    model: Any = trainer.model
    for name in ("activation_checkpointing", "gradient_checkpointing"):  # new and old name of the same option
        if getattr(trainer.args, name, False) and hasattr(model, f"{name}_enable"):
            options = dict(getattr(trainer.args, f"{name}_kwargs", None) or {})
            kept = {key: value for key, value in options.items() if key not in ("every_n_layers", "offload")}
            getattr(model, f"{name}_enable")(kept or None)
            return


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _steps(trainer: AlignmentTrainer) -> int:
    args = trainer.args
    per_epoch = len(trainer.get_train_dataloader())
    return args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)


def _seconds_per_scored_token(trainer: AlignmentTrainer, rows: Sequence[TokenRow]) -> float:
    model: Any = trainer.model
    start = _now(trainer)
    score_row_list(
        model,
        rows,
        tokens_per_batch=trainer.args.reference_tokens_per_batch,
        autocast_dtype=trainer.args.autocast_dtype,
    )
    return (_now(trainer) - start) / sum(len(row.input_ids) for row in rows)


def _tokens_to_score(trainer: AlignmentTrainer) -> int:
    """Reference scores of everything that has none yet, and the final scores of the held-out rows."""
    total = 0
    for data, times in ((trainer.train_dataset, 1), (trainer.eval_dataset, 2)):
        sets: list[Any] = list(data.values()) if isinstance(data, dict) else [data]
        total += sum(int(s.lengths.sum()) * (times - s.has_reference_scores) for s in sets if s is not None)
    return total
