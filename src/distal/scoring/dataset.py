"""Scores of a whole data set under one model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from distal.errors import NonFiniteError
from distal.progress import follow
from distal.scoring.layouts import PADDED, Layout
from distal.scoring.logprobs import score_rows
from distal.scoring.sharing import in_parallel, rank_and_world, share_of, sum_over_ranks
from distal.types import RowSource, TokenRow

__all__ = [
    "DEFAULT_TOKENS_PER_BATCH",
    "SHARD_TOKENS",
    "DatasetRows",
    "Part",
    "Passes",
    "autocast",
    "score_dataset",
    "score_parts",
    "score_row_list",
    "score_type",
    "shard_bounds",
]

DEFAULT_TOKENS_PER_BATCH = 8192
"""Token places of one forward pass without gradient."""

SHARD_TOKENS = 2**19
"""Tokens of a shard, about: what is lost where scoring is killed, and many forward passes, so that few are not full.

Shards of other sizes are other entries of the cache; see `SCORING_VERSION`.
"""

WAVE = 16
"""Forward passes of each rank, at least, between two exchanges of scores; a last pass that some ranks lack is then
one of many."""


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`, or nothing where `dtype` is None. One function for policy and reference."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


class DatasetRows(Sequence[TokenRow]):
    """The rows of a data set, unit by unit, each made when it is asked for.

    Token ids of a large data set take many times the memory as Python numbers that they take on disk.

    Args:
        dataset: the units.
        start: first row that counts.
        stop: the row behind the last one; None for all.
    """

    def __init__(self, dataset: RowSource, start: int = 0, stop: int | None = None) -> None:
        self._dataset = dataset
        self.width = 2 if dataset.kind == "paired" else 1
        self._start = start
        self._stop = len(dataset) * self.width if stop is None else stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._start + index
        return self._dataset[row // self.width][row % self.width]

    def part(self, start: int, stop: int) -> DatasetRows:
        """Rows `start` to `stop - 1` of these."""
        made = DatasetRows(self._dataset, self._start + start, self._start + stop)
        made.__dict__["lengths"] = self.lengths[start:stop]
        return made

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and completion together."""
        known = getattr(self._dataset, "lengths", None)
        if known is None:
            return [len(row.input_ids) for row in self]
        return known[self._start : self._stop].tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """How rows are put through a model.

    Attributes:
        tokens_per_batch: token places per forward pass; memory and speed only.
        layout: how rows are laid out in it; the same for policy and reference.
        autocast_dtype: mixed precision, None for the model's own type.
        progress: what the progress bar says; None for silence.
        shared: share the forward passes out over the ranks; then all of them must take part.
    """

    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH
    layout: Layout = PADDED
    autocast_dtype: torch.dtype | None = None
    progress: str | None = None
    shared: bool = False


class Part(NamedTuple):
    """A part of a job: some rows, in one piece.

    Attributes:
        number: which part it is.
        rows: its rows; None where somebody else has scored them, so that the progress bar alone hears of it.
        tokens: of its rows.
    """

    number: int
    rows: Sequence[TokenRow] | None
    tokens: int


def score_dataset(
    model: nn.Module,
    dataset: RowSource,
    *,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    layout: Layout = PADDED,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = "scoring",
    shared: bool = False,
) -> np.ndarray:
    """Scores of every row of a data set, without gradient and without dropout.

    Args:
        model: a causal language model; its training mode is put back afterwards.
        dataset: tokenised preferences of any kind.
        tokens_per_batch: token places per forward pass; memory and speed only.
        layout: how rows are laid out in it; the same for policy and reference.
        autocast_dtype: mixed precision, None for the model's own type.
        progress: what the progress bar says; None for silence.
        shared: share the forward passes out over the ranks; then all of them must call this, and all get all scores.

    Returns:
        (n_rows,) summed completion log-probabilities, nats, unit by unit; float32, or float64 for a float64 model.
        The rows of a forward pass do not depend on the number of ranks.

    Raises:
        NonFiniteError: a score is NaN or infinite; the first rows concerned are named.
    """
    rows = DatasetRows(dataset)
    how = Passes(
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        autocast_dtype=autocast_dtype,
        progress=progress,
        shared=shared,
    )
    shards = list(itertools.pairwise(shard_bounds(rows.lengths, rows.width)))
    parts = [Part(n, rows.part(*ends), sum(rows.lengths[slice(*ends)])) for n, ends in enumerate(shards)]
    scores = np.zeros(len(rows), dtype=score_type(model))

    def keep(number: int, found: np.ndarray) -> None:
        scores[slice(*shards[number])] = found

    score_parts(model, parts, keep, how, tokens=sum(rows.lengths))
    return scores


def score_row_list(
    model: nn.Module,
    rows: Sequence[TokenRow],
    *,
    tokens_per_batch: int = DEFAULT_TOKENS_PER_BATCH,
    layout: Layout = PADDED,
    autocast_dtype: torch.dtype | None = None,
    progress: str | None = None,
    shared: bool = False,
) -> np.ndarray:
    """`score_dataset` for rows at hand, in one piece: (len(rows),) scores in the order of the rows."""
    how = Passes(
        tokens_per_batch=tokens_per_batch,
        layout=layout,
        autocast_dtype=autocast_dtype,
        progress=progress,
        shared=shared,
    )
    scores = np.zeros(len(rows), dtype=score_type(model))

    def keep(number: int, found: np.ndarray) -> None:
        scores[:] = found

    tokens = sum(_lengths(rows))
    score_parts(model, [Part(0, rows, tokens)] if len(rows) else [], keep, how, tokens=tokens)
    return scores


def score_parts(
    model: nn.Module,
    parts: Iterable[Part],
    finished: Callable[[int, np.ndarray], None],
    how: Passes,
    *,
    tokens: int,
) -> None:
    """Score one part after the other, without gradient and without dropout.

    Args:
        model: a causal language model; its training mode is put back afterwards.
        parts: the next one is asked for when the last one is finished; where ranks share, some are asked for
            together, on every rank the same.
        finished: called with the number of a part and the scores of its rows, on every rank.
        how: how rows are put through the model.
        tokens: of all parts together, for the estimate of the time left.

    Raises:
        NonFiniteError: a score is NaN or infinite; the first rows concerned are named.
    """
    device = next(model.parameters()).device
    shown = how.progress if tokens and (not how.shared or rank_and_world()[0] == 0) else None
    with evaluating(model), torch.no_grad(), autocast(device, how.autocast_dtype):
        for _ in follow(_score_parts(model, parts, finished, how), shown, total=tokens, work=float):
            pass


def _score_parts(
    model: nn.Module, parts: Iterable[Part], finished: Callable[[int, np.ndarray], None], how: Passes
) -> Generator[float]:
    """Yields, after each forward pass, the tokens by which the job is nearer to its end."""
    yield 0  # the bar appears before the first pass is done
    wave: list[_CutPart] = []
    # Parts seldom make the same number of passes for every rank; several of them together waste fewer.
    enough = WAVE * rank_and_world()[1] if how.shared and in_parallel() else 1
    for number, rows, tokens in parts:
        if rows is None:
            yield tokens
            continue
        wave.append(_CutPart(number, rows, tokens, how.layout.cut_by_tokens(rows, 1, how.tokens_per_batch)))
        if sum(len(part.groups) for part in wave) >= enough:
            yield from _score_wave(model, wave, finished, how)
            wave = []
    if wave:
        yield from _score_wave(model, wave, finished, how)


class _CutPart(NamedTuple):
    """A part, and the rows of each of its forward passes."""

    number: int
    rows: Sequence[TokenRow]
    tokens: int
    groups: list[list[int]]


def _score_wave(
    model: nn.Module, wave: list[_CutPart], finished: Callable[[int, np.ndarray], None], how: Passes
) -> Generator[float]:
    """Scores some parts, whose forward passes are shared out over the ranks."""
    lengths = [_lengths(part.rows) for part in wave]
    passes = [(part, group) for part in range(len(wave)) for group in wave[part].groups]
    own, counted = passes, len(passes)
    if how.shared and in_parallel():
        # The largest first: ranks then wait for passes of about the same size.
        passes.sort(key=lambda made: -sum(lengths[made[0]][i] for i in made[1]))
        own, counted = share_of(passes)
    # Weighing by tokens makes the estimate honest all the same.
    weights = [sum(lengths[part][i] for i in group) for part, group in own]
    tokens = sum(part.tokens for part in wave)
    ends = np.cumsum([0, *(len(part.rows) for part in wave)])
    scores = np.zeros(ends[-1], dtype=score_type(model))
    for k, (part, group) in enumerate(own):
        rows = wave[part].rows
        found = score_rows(model, [rows[i] for i in group], how.layout)
        if k < counted:
            scores[ends[part] + np.asarray(group)] = found.cpu().numpy()
        yield tokens * weights[k] / sum(weights)
    if how.shared:
        scores = sum_over_ranks(scores)  # each row was scored by one rank; the others have zeros
    for part, start, stop in zip(wave, ends[:-1], ends[1:], strict=True):
        refuse_non_finite(scores[start:stop], part.rows)
        finished(part.number, scores[start:stop])


def shard_bounds(lengths: Sequence[int], width: int) -> list[int]:
    """Row numbers where the shards of a data set begin and end; they depend on the lengths of its rows alone.

    A shard is scored, and written to the cache, in one piece. It holds the units that begin within one stretch of
    `SHARD_TOKENS` tokens.

    Args:
        lengths: tokens of each row, (n,).
        width: rows of a unit, which stay together.

    Returns:
        shards + 1 numbers, from 0 to n.

    Examples:
        >>> shard_bounds([SHARD_TOKENS - 1, 5, 4, SHARD_TOKENS], width=1)
        [0, 2, 4]
    """
    units = np.asarray(lengths, dtype=np.int64).reshape(-1, width).sum(axis=1)
    stretch = (np.cumsum(units) - units) // SHARD_TOKENS
    inner = (np.flatnonzero(np.diff(stretch)) + 1) * width
    return [0, *inner.tolist(), len(lengths)] if len(lengths) else [0]


def _lengths(rows: Sequence[TokenRow]) -> Sequence[int]:
    return rows.lengths if isinstance(rows, DatasetRows) else [len(row.input_ids) for row in rows]


def score_type(model: nn.Module) -> type[np.floating]:
    """float32, or float64 for a float64 model."""
    double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    return np.float64 if double else np.float32


def refuse_non_finite(scores: np.ndarray, rows: Sequence[TokenRow]) -> None:
    """Raise NonFiniteError naming the rows whose score is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        named = ", ".join(f"row {rows[i].source_row} (score {scores[i]})" for i in bad[:5])
        raise NonFiniteError(
            f"{bad.size} of {len(rows)} scores are not finite, first {named}. The weights may hold NaN or infinity, "
            "or the numbers overflow in the chosen precision: check the model, or use float32 or bfloat16."
        )


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Evaluation mode while open."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
