"""Which units make up each optimizer batch: one seeded order for every number of devices."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from distal.errors import ConfigError, DataError
from distal.types import DataKind

__all__ = ["OptimizerBatchSampler", "Sampled"]

Indices = NDArray[np.int64]


class Sampled(Protocol):
    """What the sampler needs of a data set; `labels`, one bool per unit, only where it is unpaired."""

    kind: DataKind

    def __len__(self) -> int: ...


class OptimizerBatchSampler(Sampler[list[int]]):
    """Yields, for one rank, its share of each optimizer batch: lists of unit indices.

    The batches of an epoch depend on the seed, the epoch and `global_batch_size` alone. Rank r takes the
    units r, r + world_size, r + 2 world_size, ... of each batch, so that the union over ranks is the same set
    in the same order for every world size. Of a last batch that has fewer units than there are ranks, the
    last ranks get an empty share.

    Paired data is shuffled and cut into batches. Unpaired data is stratified: every batch holds both labels,
    in the ratio of the data set as closely as whole numbers allow (cumulative rounding, at least one of
    each). Each unit occurs at most once per epoch; only when one label has fewer units than there are batches
    are its units used again, in a fresh shuffle, until every batch holds one, and every unit of the other
    label occurs once.

    The last batch is smaller when the units do not divide evenly. It is left out of the epoch if `drop_last`
    is set or, unpaired, if it would be a single unit, which cannot hold both labels. Which units that hits
    changes from epoch to epoch.

    The order within a batch says nothing: rows are grouped by length where a rank cuts its share into
    micro-batches, never across batches, so that long and short rows meet in one sort.

    Args:
        dataset: a tokenised data set.
        global_batch_size: units per optimizer step over all ranks: pairs, or samples of both labels together.
        seed: of the shuffles, not negative.
        rank: which share to yield, 0 <= rank < world_size.
        world_size: number of ranks.
        drop_last: leave out a last batch that is smaller than the others.

    Raises:
        ConfigError: a number is of the wrong type or size, or a batch cannot give every rank a unit.
        DataError: the data set is too small for a single batch, or holds one label only.

    Attributes:
        exhausted: set it where a run has taken all its steps: then nothing is yielded.

    Warns:
        UserWarning: the data set is smaller than one batch, so that every batch is the whole data set.

    Examples:
        >>> class Pairs(list):
        ...     kind = "paired"
        >>> [len(batch) for batch in OptimizerBatchSampler(Pairs(range(10)), 4)]
        [4, 4, 2]
    """

    def __init__(
        self,
        dataset: Sampled,
        global_batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.global_batch_size = _whole("global_batch_size", global_batch_size, 1)
        self.seed = _whole("seed", seed, 0)
        self.world_size = _whole("world_size", world_size, 1)
        self.rank = _whole("rank", rank, 0)
        self.epoch = 0
        self.exhausted = False
        if self.rank >= self.world_size or self.global_batch_size < self.world_size:
            raise ConfigError(
                f"rank={rank} of world_size={world_size} with global_batch_size={global_batch_size}: ranks "
                f"count from 0, and every rank needs a unit of each optimizer batch; raise "
                f"global_batch_size to {world_size} or more"
            )
        self._plan = _plan(dataset, self.global_batch_size)
        # The plan keeps its last batch: what the others hold must not depend on whether it is used.
        self._n_batches = len(self._plan.sizes) - (
            drop_last and self._plan.sizes[-1] < self.global_batch_size
        )
        self._check_size(len(dataset))

    def __len__(self) -> int:
        """Number of optimizer steps in an epoch, the same in every epoch and on every rank."""
        return self._n_batches

    def __iter__(self) -> Iterator[list[int]]:
        if self.exhausted:
            return
        batches = self._plan.batches(np.random.default_rng([self.seed, self.epoch]))
        for batch in itertools.islice(batches, self._n_batches):
            yield batch[self.rank :: self.world_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0-based; each has an order of its own."""
        self.epoch = _whole("epoch", epoch, 0)

    def _check_size(self, n_units: int) -> None:
        if self._n_batches == 0:
            raise DataError(
                f"{n_units} units make no optimizer batch of {self.global_batch_size} with drop_last; lower "
                f"global_batch_size, add data, or keep the last batch"
            )
        if n_units < self.global_batch_size:
            warnings.warn(
                f"global_batch_size={self.global_batch_size} is larger than the data set of {n_units} "
                f"units: every optimizer batch is the whole data set, one step per epoch",
                stacklevel=3,
            )


class _Plan(Protocol):
    """How one epoch is cut into batches; `sizes` are the same for every epoch."""

    sizes: list[int]

    def batches(self, rng: np.random.Generator) -> Iterator[Indices]: ...


class _Shuffled:
    """Consecutive pieces of one shuffle."""

    def __init__(self, n_units: int, batch_size: int) -> None:
        self.sizes = _pieces(n_units, batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[Indices]:
        order = rng.permutation(sum(self.sizes))
        yield from np.split(order, np.cumsum(self.sizes)[:-1])


class _Stratified:
    """Both labels in every batch, in the ratio of the data set."""

    def __init__(self, labels: NDArray[np.bool_], batch_size: int) -> None:
        self._rare, self._common = sorted((np.flatnonzero(labels), np.flatnonzero(~labels)), key=len)
        self.sizes = _pieces(len(labels), batch_size)
        if self.sizes[-1] == 1:
            self.sizes.pop()
        if len(self._rare) < len(self.sizes):
            self.sizes = [size + 1 for size in _pieces(len(self._common), batch_size - 1)]
            self._rare_counts = [1] * len(self.sizes)
        else:
            self._rare_counts = _share(self.sizes, len(self._rare), len(self._common))

    def batches(self, rng: np.random.Generator) -> Iterator[Indices]:
        rounds = -(-sum(self._rare_counts) // len(self._rare))
        rare = np.concatenate([rng.permutation(self._rare) for _ in range(rounds)])
        common = rng.permutation(self._common)
        n_rare = n_common = 0
        for size, count in zip(self.sizes, self._rare_counts, strict=True):
            batch = np.concatenate(
                [rare[n_rare : n_rare + count], common[n_common : n_common + size - count]]
            )
            n_rare, n_common = n_rare + count, n_common + size - count
            yield rng.permutation(batch)


def _plan(dataset: Sampled, batch_size: int) -> _Plan:
    if len(dataset) == 0:
        raise DataError("the data set holds no units to sample from")
    if dataset.kind == "paired":
        return _Shuffled(len(dataset), batch_size)
    labels = np.asarray(cast(Any, dataset).labels, dtype=bool)
    if labels.all() or not labels.any():
        raise DataError(
            f"all {len(labels)} samples have the label {bool(labels[0])}; every optimizer batch needs both "
            f"labels: add samples with the other one"
        )
    if batch_size < 2:
        raise ConfigError("global_batch_size=1: a batch of unpaired data holds both labels; use at least 2")
    return _Stratified(labels, batch_size)


def _pieces(total: int, size: int) -> list[int]:
    """Sizes of consecutive pieces of at most `size`."""
    return [min(size, total - start) for start in range(0, total, size)]


def _share(sizes: list[int], n_rare: int, n_common: int) -> list[int]:
    """How many units of the rarer label each batch takes; the sum of `sizes` is at most n_rare + n_common.

    Each batch takes one of either label, and the rest is dealt out by cumulative rounding, so that no batch
    is further from the common ratio than whole numbers demand.
    """
    total, n_batches = sum(sizes), len(sizes)
    used = round(n_rare * total / (n_rare + n_common))
    used = min(max(used, n_batches, total - n_common), n_rare)
    free, spare = total - 2 * n_batches, used - n_batches
    seats = np.cumsum([0] + [size - 2 for size in sizes])
    taken = (2 * seats * spare + free) // (2 * free) if free else seats
    return (1 + np.diff(taken)).tolist()


def _whole(option: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"{option}={value!r}: expected a whole number of at least {least}")
    return int(value)
