"""The optimizer batch as numbers: scores of all its rows, gathered from all ranks in one fixed order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from distal.errors import NonFiniteError
from distal.objectives import SequenceScores
from distal.scoring import collective_device, in_parallel, rank_and_world, score_noise
from distal.types import DataKind, TokenRow

__all__ = [
    "ScoredBatch",
    "gather_batch",
    "local_batch",
    "refuse_non_finite",
    "rows_per_unit",
    "weights_of",
    "without_non_finite",
    "without_rounding",
]


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """Scores of n rows, detached and on the host, where the objective is computed.

    A few thousand numbers are sorted faster there than a device could be asked to, and the one copy is the only
    synchronisation of a step whose objective couples the batch.

    Attributes:
        kind: `paired` (rows alternate chosen, rejected) or `unpaired`.
        policy: (n,) policy scores, nats.
        reference: (n,) reference scores, nats.
        desirable: (n,) bool.
        source_row: (n,) row numbers in the user's data file.
        completion_length: (n,) completion tokens that are scored.
        local: positions of this rank's rows among the n, in the order in which the rank holds them.
        weight: (n,) how much each row's unit counts; None where all count alike.
    """

    kind: DataKind
    policy: Tensor
    reference: Tensor
    desirable: Tensor
    source_row: Tensor
    completion_length: Tensor
    local: Tensor
    weight: Tensor | None = None

    @property
    def n_units(self) -> int:
        """Pairs when paired, samples when unpaired."""
        return self.policy.shape[0] // rows_per_unit(self.kind)

    def sequence_scores(self, policy: Tensor | None = None) -> SequenceScores:
        """What the objective sees; `policy` replaces the stored scores (with a tensor that tracks gradients)."""
        scores = self.policy if policy is None else policy
        if self.kind == "unpaired":
            return SequenceScores.from_samples(
                scores,
                self.reference,
                self.desirable,
                weights=self.weight,
                lengths=self.completion_length,
            )
        return SequenceScores.from_pairs(
            scores[0::2],
            scores[1::2],
            self.reference[0::2],
            self.reference[1::2],
            weights=None if self.weight is None else self.weight[0::2],
            chosen_lengths=self.completion_length[0::2],
        )


def rows_per_unit(kind: DataKind) -> int:
    """Rows that one sort unit brings."""
    return 2 if kind == "paired" else 1


def weights_of(rows: Sequence[TokenRow]) -> NDArray[np.float64]:
    """(n,) weight of each row's unit, 1 where it does not say.

    Examples:
        >>> weights_of(
        ...     [TokenRow([1, 2], 1, True, 0, 0), TokenRow([1, 2], 1, True, 1, 1, weight=0.5)]
        ... ).tolist()
        [1.0, 0.5]
    """
    return np.fromiter((1.0 if row.weight is None else row.weight for row in rows), float, len(rows))


def gather_batch(kind: DataKind, rows: Sequence[TokenRow], policy: Tensor) -> ScoredBatch:
    """Gather the scores of the optimizer batch from every rank.

    Rank r of W holds units r, r + W, r + 2W, ... of the batch; the gathered tensors have them back in batch order,
    so that the order, hence how ties are broken, does not depend on W. Numbers travel in float64, which holds
    float32 scores, labels and row numbers alike exactly. No gradient passes through the collective: every rank
    computes the same coefficients and backpropagates its own rows.

    Args:
        kind: of the data.
        rows: this rank's rows.
        policy: (len(rows),) their policy scores, detached.
    """
    rank, _ = rank_and_world()
    return _assemble(kind, _all_gather_ragged(_table(rows, policy)), rank, policy.dtype)


def local_batch(kind: DataKind, rows: Sequence[TokenRow], policy: Tensor) -> ScoredBatch:
    """The same for this rank's rows alone (what `gather_batch` gives where there is one rank)."""
    return _assemble(kind, [_table(rows, policy)], 0, policy.dtype)


def refuse_non_finite(batch: ScoredBatch) -> None:
    """Raise NonFiniteError, naming the rows, where a policy or reference score is NaN or infinite."""
    for whose, scores in (("policy", batch.policy), ("reference", batch.reference)):
        bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
        if bad:
            named = ", ".join(f"row {int(batch.source_row[i])} ({scores[i].item()})" for i in bad[:5])
            raise NonFiniteError(
                f"{len(bad)} of {scores.shape[0]} {whose} scores of this optimizer batch are not finite: {named}. "
                "Nothing was updated. If the weights are sound, lower the learning rate or clip gradients "
                "(max_grad_norm); in float16 use bfloat16 instead."
            )


def without_non_finite(batch: ScoredBatch) -> ScoredBatch:
    """The batch with every score that is NaN or infinite replaced by a finite number."""
    return dataclasses.replace(
        batch, policy=batch.policy.nan_to_num(), reference=batch.reference.nan_to_num()
    )


def without_rounding(batch: ScoredBatch, dtype: torch.dtype) -> ScoredBatch:
    """The batch with rewards of exactly zero, if all of them are zero to rounding in `dtype`; else unchanged.

    Before the first step policy and reference coincide, and what a metric says of the rounding left over is no
    statement about preferences: the violation ratio is 0/0 there, not whatever the last bits make of it.
    """
    noise = torch.as_tensor(score_noise(dtype, batch.completion_length.numpy()))
    coincide = ((batch.policy - batch.reference).abs() <= noise).all()
    return dataclasses.replace(batch, policy=batch.reference) if coincide else batch


def _table(rows: Sequence[TokenRow], policy: Tensor) -> Tensor:
    """(rows, 6): policy score, reference score, label, source row, scored completion tokens, weight."""
    n = len(rows)
    table = np.empty((n, 6))
    table[:, 0] = policy.detach().double().cpu().numpy()
    # Iterators of numbers, without a list in between: of a large batch this is what takes the time.
    table[:, 1] = np.fromiter((row.reference_score for row in rows), float, n)
    table[:, 2] = np.fromiter((row.desirable for row in rows), float, n)
    table[:, 3] = np.fromiter((row.source_row for row in rows), float, n)
    table[:, 4] = np.fromiter((row.scored_length for row in rows), float, n)
    table[:, 5] = weights_of(rows)
    return torch.from_numpy(table)


def _assemble(kind: DataKind, shares: list[Tensor], rank: int, dtype: torch.dtype) -> ScoredBatch:
    width = rows_per_unit(kind)
    units, local = _interleave([share.cpu().view(-1, width, share.shape[1]) for share in shares], rank)
    policy, reference, desirable, source_row, completion_length, weight = units.flatten(0, 1).unbind(dim=1)
    return ScoredBatch(
        kind=kind,
        policy=policy.to(dtype),
        reference=reference.to(dtype),
        desirable=desirable > 0.5,
        source_row=source_row.long(),
        completion_length=completion_length.long(),
        local=(local[:, None] * width + torch.arange(width)).flatten(),
        # Equal weights are none: then the loss is that of a batch without, to the last bit.
        weight=None if bool((weight == weight[:1]).all()) else weight,
    )


def _all_gather_ragged(table: Tensor) -> list[Tensor]:
    """Every rank's (n_r, columns) table, whatever its length."""
    if not in_parallel():
        return [table]
    world, table = dist.get_world_size(), table.to(collective_device())
    counts = [torch.zeros(1, dtype=torch.long, device=table.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([table.shape[0]], device=table.device))
    lengths = [int(count.item()) for count in counts]
    padded = table.new_zeros(max(lengths), table.shape[1])
    padded[: table.shape[0]] = table
    shares = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(shares, padded)
    return [share[:length] for share, length in zip(shares, lengths, strict=True)]


def _interleave(shares: list[Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Undo the strided sharing: units in batch order, and where the given rank's units stand in it."""
    world = len(shares)
    total = sum(share.shape[0] for share in shares)
    merged = shares[0].new_empty(total, *shares[0].shape[1:])
    for r, share in enumerate(shares):
        merged[r::world] = share
    return merged, torch.arange(total)[rank::world]  # empty where the batch has fewer units than that
