"""The bootstrap of a certificate: pairs, samples or whole prompts are drawn again, with or without equal lengths.

Blocks of resamples have generators of their own, so that the answer depends on the seed alone, not on how many threads
share the blocks; there are as many as torch is set to use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from distal.evaluation.laws import Frame, Statistics, concatenated, of_counts, of_weights
from distal.evaluation.lengths import Strata
from distal.transport.clusters import Clusters

__all__ = ["Groups", "Plan", "bootstrap", "observed", "row_counts"]

IntArray = NDArray[np.intp]

_BLOCK = 1 << 16
"""Weights held at once by a thread and array (512 KiB): what a processor keeps close at hand."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Which samples belong together, such as answers to one prompt.

    Attributes:
        u: group of each u, from 0, shape (n,).
        v: group of each v, shape (m,).
        count: number of groups.
    """

    u: IntArray
    v: IntArray
    count: int

    @classmethod
    def of(cls, labels: object, n: int, m: int, *, paired: bool) -> Groups | None:
        """Number the labels; None where no two pairs (or samples) share one, so that there is nothing to keep together.

        Args:
            labels: an array of n labels if paired, else a tuple of n and m labels; None for none.
            n: samples in u.
            m: samples in v.
            paired: whether u_i and v_i belong together.

        Raises:
            ValueError: the wrong number of labels, or all of them equal.
            TypeError: labels that are not all numbers or all strings.
        """
        if labels is None:
            return None
        found = Clusters.of(labels, n, m, paired=paired)
        if found.count == (n if paired else n + m):
            return None
        return cls(found.u.numpy(), found.v.numpy(), found.count)

    @property
    def independent(self) -> int:
        """Groups on the side that has fewer of them: what counts as the number of independent samples."""
        return int(min(np.unique(self.u).size, np.unique(self.v).size))


@dataclass(frozen=True, slots=True)
class Plan:
    """How samples are drawn again, and what they weigh.

    Attributes:
        paired: draw the pairs (u_i, v_i) jointly; otherwise each side on its own.
        groups: draw these as wholes; None for single pairs or samples.
        strata: give both laws one distribution over these; None for equal weights.
    """

    paired: bool
    groups: Groups | None = None
    strata: Strata | None = None


def observed(frame: Frame, plan: Plan) -> Statistics:
    """The statistics of the samples themselves, as one reweighting."""
    on_u, on_v = (
        np.ones((1, frame.pair.u.size), dtype=np.intp),
        np.ones((1, frame.pair.v.size), dtype=np.intp),
    )
    if plan.strata is None:
        return of_counts(frame, on_u, on_v)
    return of_weights(frame, *_sorted(frame, *plan.strata.weights(on_u, on_v)))


def bootstrap(frame: Frame, plan: Plan, resamples: int, seed: int) -> Statistics:
    """Draw with replacement, and collect the statistics of every resample.

    Args:
        frame: the samples.
        plan: how they are drawn.
        resamples: how many times; resamples that hold nothing of one side are left out.
        seed: of the draws; the same seed gives the same statistics, whatever the number of threads.
    """
    rows = max(1, _BLOCK // max(frame.pair.u.size, frame.pair.v.size))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    _keep_freed_memory()
    work = _worker(frame, plan)

    def one(size: int, source: np.random.SeedSequence) -> Statistics | None:
        return work(size, np.random.Generator(np.random.SFC64(source)))

    threads = min(torch.get_num_threads(), len(sizes))
    if threads == 1:
        parts = list(map(one, sizes, seeds))
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(one, sizes, seeds))
    kept = [part for part in parts if part is not None]
    return concatenated(kept) if kept else _none(frame)


_Work = Callable[[int, np.random.Generator], Statistics | None]


def _worker(frame: Frame, plan: Plan) -> _Work:
    """Makes the statistics of so many resamples."""
    n, m = frame.pair.u.size, frame.pair.v.size
    groups, strata = plan.groups, plan.strata

    def drawn(rows: int, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        return _drawn(generator, rows, n, m, plan)

    if groups is None and strata is None:
        return lambda rows, generator: of_counts(frame, *_sorted(frame, *drawn(rows, generator)))

    def weighted(rows: int, generator: np.random.Generator) -> Statistics | None:
        on_u, on_v = drawn(rows, generator)
        weights = (on_u, on_v) if strata is None else strata.weights(on_u, on_v)
        held = (weights[0].sum(1) > 0) & (weights[1].sum(1) > 0)
        return of_weights(frame, *_sorted(frame, *(side[held] for side in weights))) if held.any() else None

    return weighted


def row_counts(n: int, m: int, plan: Plan, resamples: int, seed: int) -> Iterator[tuple[IntArray, IntArray]]:
    """How often each of n and of m samples is drawn, one resample after the other; without strata.

    Resamples that hold nothing of one side are left out.
    """
    generator = np.random.Generator(np.random.SFC64(seed))
    for _ in range(resamples):
        on_u, on_v = (side[0] for side in _drawn(generator, 1, n, m, plan))
        if on_u.any() and on_v.any():
            yield on_u, on_v


def _drawn(
    generator: np.random.Generator, rows: int, n: int, m: int, plan: Plan
) -> tuple[IntArray, IntArray]:
    """How often each u and each v is drawn, shapes (rows, n) and (rows, m)."""
    if plan.groups is not None:
        times = _counts(generator, rows, plan.groups.count)
        return np.take(times, plan.groups.u, axis=1), np.take(times, plan.groups.v, axis=1)
    if plan.paired:
        times = _counts(generator, rows, n)
        return times, times
    return _counts(generator, rows, n), _counts(generator, rows, m)


def _keep_freed_memory() -> None:
    """Make the C library hold on to the memory of temporary arrays, where it is glibc; elsewhere this does nothing.

    It gives memory at the top of the heap back to the system once there is more than twice the largest block that it
    ever freed to it. Arrays of half a megabyte would be given back and cleared again for every operation, which
    takes longer than the operation.
    """
    np.empty(1 << 24, dtype=np.uint8)  # freed at once; never touched, so that it costs no memory


def _counts(generator: np.random.Generator, rows: int, size: int) -> IntArray:
    """How often each of `size` things is drawn in `size` draws, shape (rows, size)."""
    drawn = generator.integers(0, size, size=(rows, size), dtype=np.int32)
    # Into one long row, by adding to the numbers of row r as many as there are in the rows before it.
    flat = np.add(drawn, size * np.arange(rows)[:, None], dtype=np.intp).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size)


_Number = TypeVar("_Number", bound=np.generic)


def _sorted(
    frame: Frame, on_u: NDArray[_Number], on_v: NDArray[_Number]
) -> tuple[NDArray[_Number], NDArray[_Number]]:
    """Weights in the order of the sorted samples."""
    return np.take(on_u, frame.pair.u_order, axis=1), np.take(on_v, frame.pair.v_order, axis=1)


def _none(frame: Frame) -> Statistics:
    """No resample at all."""
    whole = of_counts(
        frame,
        np.ones((1, frame.pair.u.size), dtype=np.intp),
        np.ones((1, frame.pair.v.size), dtype=np.intp),
    )
    cut: Any = (None if value is None else value[:0] for value in whole)
    return Statistics(*cut)
