"""Scoring through the cache: what is known is read, what is missing is computed and written shard by shard.

The first rank alone reads and writes; what it has, and which shard comes next, holds for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from distal.caching import ScoreCache, ScoreEntry
from distal.scoring import dataset as cutting
from distal.scoring.dataset import DatasetRows, Part, Passes, score_parts, score_type
from distal.scoring.sharing import from_first_rank, rank_and_world
from distal.types import RowSource

__all__ = ["CachedScores", "score_through_cache"]


@dataclass(frozen=True, slots=True)
class CachedScores:
    """Scores, and where they are from.

    Attributes:
        scores: (n_rows,) summed completion log-probabilities, nats, unit by unit.
        key: of the entry of the cache.
        computed: rows that were scored just now; those of the others were known.
    """

    scores: np.ndarray
    key: str
    computed: int


def score_through_cache(
    model: nn.Module,
    dataset: RowSource,
    how: Passes,
    *,
    cache: ScoreCache,
    identity: Mapping[str, str],
    about: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> CachedScores:
    """`score_dataset`, with the same bits, that computes only what the cache does not have.

    Args:
        model: a causal language model.
        dataset: tokenised preferences.
        how: how rows are put through the model; where ranks share, all of them must call this.
        cache: where scores are kept.
        identity: what the scores depend on beside their type and the cut into shards.
        about: what people want to know who look at the entry.
        warn: called with a message when a damaged shard is thrown away and recomputed.

    Raises:
        OutputError: the cache cannot be written; found out before anything is scored.
        CacheError: the cache cannot be read.
        NonFiniteError: a score is NaN or infinite; the first rows concerned are named.
    """
    rows, dtype = DatasetRows(dataset), score_type(model)
    full = {**identity, "dtype": np.dtype(dtype).name, "shard_tokens": str(cutting.SHARD_TOKENS)}
    bounds = cutting.shard_bounds(rows.lengths, rows.width)
    job = _Job(rows, bounds, np.zeros(len(rows), dtype=dtype), how.shared)
    if not how.shared or rank_and_world()[0] == 0:
        job.entry = cache.entry(full, bounds=bounds, dtype=np.dtype(dtype).name, about=about)
    try:
        missing = job.read_known(warn)
        if missing:
            tokens = sum(sum(rows.lengths[slice(*job.shards[number])]) for number in missing)
            score_parts(model, job.parts(missing, warn), job.finish, how, tokens=tokens)
    finally:
        if job.entry is not None:
            job.entry.close()
    return CachedScores(job.scores, cache.key(full), job.computed)


class _Job:
    """Scores on their way; `entry` is that of the first rank alone."""

    def __init__(self, rows: DatasetRows, bounds: list[int], scores: np.ndarray, shared: bool) -> None:
        self.rows = rows
        self.shards = list(itertools.pairwise(bounds))
        self.scores = scores
        self.shared = shared
        self.entry: ScoreEntry | None = None
        self.computed = 0

    def read_known(self, warn: Callable[[str], None]) -> list[int]:
        """Takes from the cache what it has; the numbers of the shards that are missing."""
        known = np.zeros(len(self.shards))
        if self.entry is not None:
            for number, scores in self.entry.load_all(warn).items():
                self.scores[slice(*self.shards[number])] = scores
                known[number] = 1
            if not known.all():
                self.entry.prepare()
            self.entry.touch()
        known, self.scores = self._told(known), self._told(self.scores)
        return np.flatnonzero(known == 0).tolist()

    def parts(self, missing: list[int], warn: Callable[[str], None]) -> Generator[Part]:
        """The missing shards, one by one, as the first rank decides; those that others complete are read."""
        turns = None if self.entry is None else self.entry.turns(missing, warn)
        while True:
            number, taken = (-1, None) if turns is None else next(turns, (-1, None))
            number, known = (
                int(x) for x in self._told(np.array([number, taken is not None], dtype=np.float64))
            )
            if number < 0:
                return
            start, stop = self.shards[number]
            tokens = sum(self.rows.lengths[start:stop])
            if known:
                like = np.zeros(stop - start, dtype=self.scores.dtype)
                self.scores[start:stop] = self._told(like if taken is None else taken)
                yield Part(number, None, tokens)
            else:
                yield Part(number, self.rows.part(start, stop), tokens)

    def finish(self, number: int, scores: np.ndarray) -> None:
        """Keeps the scores of a shard, and writes them."""
        self.scores[slice(*self.shards[number])] = scores
        self.computed += len(scores)
        if self.entry is not None:
            self.entry.save(number, scores)

    def _told(self, values: np.ndarray) -> np.ndarray:
        """What the first rank has, on every rank."""
        if not self.shared:
            return values
        told = from_first_rank(values, like=values)
        assert told is not None, "the first rank gives something"
        return told
