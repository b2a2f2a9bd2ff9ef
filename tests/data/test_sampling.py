"""The sampler: partitions, label ratios, unions over ranks and epochs, and the rules for last batches."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distal.data import OptimizerBatchSampler
from distal.errors import ConfigError, DataError
from distal.types import DataKind


@dataclass
class Units:
    """A data set as the sampler sees it."""

    n: int
    labels: Any = None
    kind: DataKind = "paired"

    def __len__(self) -> int:
        return self.n


def paired(n: int) -> Units:
    return Units(n)


def unpaired(n_true: int, n_false: int, seed: int = 0) -> Units:
    labels = np.random.default_rng(seed).permutation([True] * n_true + [False] * n_false)
    return Units(len(labels), labels, "unpaired")


def sampler(units: Units, size: int, **options: Any) -> OptimizerBatchSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return OptimizerBatchSampler(units, size, **options)


def interleave(shares: list[list[int]]) -> list[int]:
    """Rebuild a batch from the shares of its ranks: unit k of the batch is rank k % world's."""
    total = sum(map(len, shares))
    return [shares[k % len(shares)][k // len(shares)] for k in range(total)]


@given(n=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 5))
def test_paired_epochs_are_partitions(n: int, size: int, seed: int) -> None:
    batches = list(sampler(paired(n), size, seed=seed))
    assert [len(batch) for batch in batches] == [min(size, n - i) for i in range(0, n, size)]
    assert sorted(sum(batches, [])) == list(range(n))


@given(n_true=st.integers(1, 60), n_false=st.integers(1, 60), size=st.integers(2, 30), seed=st.integers(0, 5))
def test_unpaired_epochs(n_true: int, n_false: int, size: int, seed: int) -> None:
    units = unpaired(n_true, n_false)
    n, rare = n_true + n_false, min(n_true, n_false)
    found = sampler(units, size, seed=seed)
    batches = list(found)
    assert len(batches) == len(found)
    for batch in batches:
        assert len(set(batch)) == len(batch) <= size
        assert 0 < units.labels[batch].sum() < len(batch)
    uses = np.bincount(sum(batches, []), minlength=n)
    if rare >= ceil(n / size) - (n % size == 1):
        # Enough of both labels: each unit at most once, all but a single left-over exactly once.
        assert uses.max() == 1
        assert uses.sum() == n - (n % size == 1)
    else:
        of_common = uses[units.labels == (n_true > n_false)]
        of_rare = uses[units.labels != (n_true > n_false)]
        assert (of_common == 1).all()
        assert of_rare.sum() == len(batches)
        assert of_rare.max() - of_rare.min() <= 1


@given(n_true=st.integers(1, 80), n_false=st.integers(1, 80), size=st.integers(2, 40))
def test_full_batches_have_the_ratio_of_the_data_set(n_true: int, n_false: int, size: int) -> None:
    n = n_true + n_false
    assume(min(n_true, n_false) >= ceil(n / size) and n >= size)
    units = unpaired(n_true, n_false)
    counts = [units.labels[batch].sum() for batch in sampler(units, size) if len(batch) == size]
    # Cumulative rounding: off the exact ratio by less than one, or by what the last batch must have of
    # either label.
    assert all(abs(count - size * n_true / n) < 2 for count in counts)
    if n % size == 0:
        assert all(abs(count - size * n_true / n) < 1 for count in counts)


def test_the_ratio_in_numbers() -> None:
    units = unpaired(20, 40)
    assert [units.labels[batch].sum() for batch in sampler(units, 12)] == [4] * 5
    units = unpaired(5, 5)
    assert sorted(units.labels[batch].sum() for batch in sampler(units, 5)) == [2, 3]


def test_the_rarer_label_is_used_again_where_it_must_be() -> None:
    units = unpaired(2, 27)
    batches = list(sampler(units, 4))
    rare = [unit for batch in batches for unit in batch if units.labels[unit]]
    assert len(batches) == 9  # three of the common label in each
    assert sorted(np.bincount(rare)[np.flatnonzero(units.labels)]) == [4, 5]
    assert all(sorted(rare[i : i + 2]) == sorted(np.flatnonzero(units.labels)) for i in range(0, 8, 2))


@given(
    n=st.integers(2, 60),
    size=st.integers(2, 20),
    world=st.integers(1, 8),
    n_true=st.integers(1, 59) | st.none(),
    epoch=st.integers(0, 3),
)
def test_ranks_share_the_batches_of_a_single_rank(
    n: int, size: int, world: int, n_true: int | None, epoch: int
) -> None:
    """The last batch too: where it has fewer units than there are ranks, some get an empty share."""
    assume(world <= size and (n_true is None or n_true < n))
    units = paired(n) if n_true is None else unpaired(n_true, n - n_true)

    def epoch_of(**options: Any) -> list[list[int]]:
        found = sampler(units, size, seed=7, **options)
        found.set_epoch(epoch)
        return list(found)

    shares = [epoch_of(rank=rank, world_size=world) for rank in range(world)]
    assert [interleave(list(batch)) for batch in zip(*shares, strict=True)] == epoch_of()


@pytest.mark.parametrize("skipped", [0, 1, 3])
def test_an_epoch_goes_on_in_its_middle(skipped: int) -> None:
    """What the Trainer does on resumption: skip batches without reading them, then tell the epoch."""
    from accelerate import skip_first_batches
    from torch.utils.data import DataLoader

    units = paired(13)

    class Rows(list[int]):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    read: list[int] = []
    rows: Any = Rows(range(13))
    whole = sampler(units, 3, seed=2, rank=1, world_size=2)
    whole.set_epoch(4)
    resumed = sampler(units, 3, seed=2, rank=1, world_size=2)
    collate: Any = list
    loader: Any = skip_first_batches(DataLoader(rows, batch_sampler=resumed, collate_fn=collate), skipped)
    resumed.set_epoch(4)
    assert list(loader) == list(whole)[skipped:]
    assert sorted(read) == sorted(sum(list(whole)[skipped:], []))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    units = unpaired(30, 30)
    found = sampler(units, 8, seed=1)
    first, again = list(found), list(found)
    found.set_epoch(1)
    second = list(found)
    found.set_epoch(0)
    assert first == again == list(found)
    assert first != second
    assert first != list(sampler(units, 8, seed=2))
    assert [len(batch) for batch in first] == [len(batch) for batch in second]


def test_the_order_is_pinned() -> None:
    # A change of this order changes every run that is resumed or repeated.
    assert list(sampler(paired(7), 3, seed=5)) == [[1, 4, 2], [3, 6, 5], [0]]
    units = Units(7, np.array([True, False, False, True, False, False, False]), "unpaired")
    assert list(sampler(units, 4, seed=5)) == [[3, 4, 6, 2], [1, 0, 5]]


def test_drop_last() -> None:
    assert [len(batch) for batch in sampler(paired(10), 4, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in sampler(unpaired(5, 5), 4, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in sampler(unpaired(1, 11), 5, drop_last=True)] == [5, 5]
    assert [len(batch) for batch in sampler(paired(8), 4, drop_last=True)] == [4, 4]


def test_units_that_drop_last_leaves_out_change_with_the_epoch() -> None:
    found = sampler(paired(9), 4, drop_last=True)
    left_out: set[int] = set()
    for epoch in range(20):
        found.set_epoch(epoch)
        left_out |= set(range(9)) - set(sum(found, []))
    assert len(left_out) > 4


def test_a_batch_larger_than_the_data_set_warns() -> None:
    with pytest.warns(UserWarning, match="global_batch_size=64 is larger than the data set of 10 units"):
        found = OptimizerBatchSampler(paired(10), 64)
    assert [sorted(batch) for batch in found] == [list(range(10))]


@pytest.mark.parametrize(
    ("units", "options", "part"),
    [
        (
            paired(3),
            {"global_batch_size": 8, "drop_last": True},
            "3 units make no optimizer batch of 8 with drop_last",
        ),
        (unpaired(4, 0), {"global_batch_size": 2}, "all 4 samples have the label True"),
        (unpaired(0, 1), {"global_batch_size": 2}, "all 1 samples have the label False"),
        (paired(0), {"global_batch_size": 2}, "holds no units"),
    ],
)
def test_data_that_makes_no_batch(units: Units, options: dict[str, Any], part: str) -> None:
    with pytest.raises(DataError, match=part):
        OptimizerBatchSampler(units, **options)


@pytest.mark.parametrize(
    ("units", "options", "part"),
    [
        (paired(9), {"global_batch_size": 2, "world_size": 4}, "raise global_batch_size to 4 or more"),
        (paired(9), {"global_batch_size": 4, "world_size": 2, "rank": 2}, "ranks count from 0"),
        (unpaired(4, 4), {"global_batch_size": 1}, "use at least 2"),
        (
            paired(9),
            {"global_batch_size": 4.0},
            "global_batch_size=4.0: expected a whole number of at least 1",
        ),
        (paired(9), {"global_batch_size": True}, "global_batch_size=True"),
        (paired(9), {"global_batch_size": "4"}, "global_batch_size='4'"),
        (paired(9), {"global_batch_size": 0}, "global_batch_size=0"),
        (paired(9), {"global_batch_size": 4, "seed": -1}, "seed=-1"),
        (paired(9), {"global_batch_size": 4, "world_size": 0}, "world_size=0"),
        (paired(9), {"global_batch_size": 4, "rank": -1}, "rank=-1"),
    ],
)
def test_options_that_cannot_be(units: Units, options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        OptimizerBatchSampler(units, **options)
