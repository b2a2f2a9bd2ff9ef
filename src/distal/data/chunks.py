"""Chunks of source rows made into tokenised rows, here or in other processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from distal.data.reading import Item
from distal.data.reasons import LENGTH_REASONS, RowProblem
from distal.data.rendering import Rendered, render
from distal.data.repeats import Repeats
from distal.data.report import Tally
from distal.data.schemas import Preference
from distal.data.store import ArrowBatch, RowBatch
from distal.data.tokenization import Encoder, Encoding
from distal.data.truncation import Truncation, fit
from distal.data.turns import LossOn
from distal.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Chunk", "ChunkWorker", "OnBadRows", "process_chunks"]

OnBadRows = Literal["drop", "error"]

_AHEAD = 2


@dataclass(slots=True)
class Chunk:
    """What a chunk of rows became."""

    tally: Tally = field(default_factory=Tally)
    batch: ArrowBatch | None = None
    keys: list[tuple[int, bool]] = field(default_factory=list)
    source_rows: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ChunkWorker:
    """Makes a chunk of source rows into tokenised rows; travels to other processes as a whole."""

    name: str
    read: Callable[[Item], Iterator[Preference | RowProblem]]
    encoder: Encoder
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    on_bad_rows: OnBadRows
    truncation: Truncation
    loss_on: LossOn = "completion"

    def __call__(self, numbered: list[tuple[int, Item]]) -> Chunk:
        """Render, tokenise and fit; rows that cannot be used are counted, or raise `DataError`."""
        chunk, batch = Chunk(), RowBatch()
        rendered = list(self._render(numbered, chunk.tally))
        for row, sides in zip(rendered, self._encode(rendered), strict=True):
            try:
                self._keep(row, sides, chunk, batch)
            except RowProblem as problem:
                self._refuse(row.source_row, problem, chunk.tally)
        chunk.batch = batch.to_arrow()
        return chunk

    def _render(self, numbered: list[tuple[int, Item]], tally: Tally) -> Iterator[Rendered]:
        for number, item in numbered:
            for made in self._read(item):
                tally.n_offered += 1
                try:
                    if isinstance(made, RowProblem):
                        raise made
                    yield render(made, number, self.tokenizer, self.name, self.loss_on)
                except RowProblem as problem:
                    self._refuse(number, problem, tally)

    def _read(self, item: Item) -> Iterator[Preference | RowProblem]:
        """What an item yields; where reading breaks off, the reason comes last."""
        try:
            yield from self.read(item)
        except RowProblem as problem:
            yield problem

    def _encode(self, rows: list[Rendered]) -> Iterator[list[Encoding]]:
        """Encodings of each row's sides; rows from a template and plain ones each go in one call."""
        encoded: dict[bool, Iterator[Encoding]] = {}
        for templated in (False, True):
            sides = [
                ((row.prompt, side), spans)
                for row in rows
                if row.templated is templated
                for side, spans in zip(row.completions, row.spans, strict=True)
            ]
            texts, spans = [text for text, _ in sides], [spans for _, spans in sides]
            encoded[templated] = iter(self.encoder.encode(texts, templated=templated, spans=spans))
        for row in rows:
            yield list(itertools.islice(encoded[row.templated], len(row.completions)))

    def _keep(self, row: Rendered, sides: list[Encoding], chunk: Chunk, batch: RowBatch) -> None:
        if not all(side.completion for side in sides):
            raise RowProblem("empty_completion", "a completion has no tokens", "remove or mend the row")
        if any(side.mask is not None and not any(side.mask) for side in sides):
            raise RowProblem(
                "nothing_scored",
                f"loss_on={self.loss_on!r} leaves a completion without any token that is scored",
                "choose another loss_on, mend the marks of the chat template, or remove the row",
            )
        fitted, cut = fit(sides, self.max_length, self.truncation)
        remarks = [*row.remarks, *([cut] if cut else [])]
        remarks += [
            remark for remark in ("merged", "cut_at_eos") if any(getattr(side, remark) for side in fitted)
        ]
        for remark in remarks:
            chunk.tally.note({"merged": "merged_boundary"}.get(remark, remark), [row.source_row])
        for index, (side, text, desirable) in enumerate(
            zip(fitted, row.completions, row.desirable, strict=True)
        ):
            batch.add(
                side.prompt,
                side.completion,
                (row.prompt if index == 0 else None, text),
                desirable=desirable,
                source_row=row.source_row,
                group=row.prompt_key,
                mask=side.mask,
                weight=row.weight,
            )
        chunk.keys.append(Repeats.keys(row.prompt, row.completions, row.desirable))
        chunk.source_rows.append(row.source_row)

    def _refuse(self, number: int, problem: RowProblem, tally: Tally) -> None:
        """Count a row as left out, or raise `DataError` where the options say so."""
        option = "truncation" if problem.reason in LENGTH_REASONS else "on_bad_rows"
        policy = self.truncation if option == "truncation" else self.on_bad_rows
        if policy == "error" or (policy != "drop" and self.on_bad_rows == "error"):
            raise DataError(
                f"{self.name}: row {number} (counted from 0): {problem}; or leave such rows out with "
                f"{option}='drop'"
            )
        tally.drop(number, problem)


def process_chunks(
    worker: ChunkWorker, chunks: Iterable[list[tuple[int, Item]]], num_proc: int | None
) -> Iterator[Chunk]:
    """Chunks in their order, made here or in other processes; only a few are in the air at a time."""
    if num_proc is None or num_proc == 1:
        yield from map(worker, chunks)
        return
    pending: deque[Future[Chunk]] = deque()
    with ProcessPoolExecutor(num_proc, initializer=_start_process, initargs=(worker,)) as pool:
        for chunk in chunks:
            pending.append(pool.submit(_work, chunk))
            if len(pending) >= _AHEAD * num_proc:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


_worker_here: list[ChunkWorker] = []
"""The worker of this process, where it is one that `process_chunks` has started."""


def _start_process(worker: ChunkWorker) -> None:
    # Processes are the parallelism here; threads of the tokenizer on top would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_here[:] = [worker]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(chunk: list[tuple[int, Item]]) -> Chunk:
    return _worker_here[0](chunk)
