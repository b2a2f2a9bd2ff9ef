"""The way from a user's rows to a tokenised data set, with every row accounted for."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from distal.data.loading import DataLike
from distal.data.preferences import TokenizedPreferences
from distal.data.reading import Item, PreferenceSource, ReadOptions, open_preferences
from distal.data.reasons import LENGTH_REASONS, RowProblem
from distal.data.rendering import Rendered, render
from distal.data.repeats import Repeats
from distal.data.report import DataReport, Tally
from distal.data.schemas import Preference
from distal.data.store import ArrowBatch, RowBatch, RowWriter
from distal.data.tokenization import Encoder, Encoding
from distal.data.truncation import Truncation, check_truncation, fit
from distal.errors import ConfigError, DataError
from distal.progress import follow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["OnBadRows", "prepare_dataset"]

OnBadRows = Literal["drop", "error"]

_CHUNK_ROWS = 1000
_AHEAD = 2
_PATIENCE = 2.0
"""Seconds without a progress bar: most files are read before."""


def prepare_dataset(  # noqa: PLR0913 - each says another thing, and most have defaults
    data: DataLike,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = 1024,
    on_bad_rows: OnBadRows = "drop",
    truncation: Truncation | None = None,
    split: str | None = None,
    num_proc: int | None = None,
    name: str = "train",
    reading: ReadOptions | None = None,
) -> TokenizedPreferences:
    """Read, check and tokenise preference data.

    Rows pass by in small portions and end up in a temporary file (in the folder that TMPDIR names), which is
    mapped into memory: the size of the data set is limited by the disk. Where it takes longer, a progress bar is
    shown, unless those of transformers are switched off (`transformers.utils.logging.disable_progress_bar`).

    Args:
        data: path of a .jsonl, .jsonl.gz, .json, .csv or .parquet file or of a folder written by
            `save_to_disk`; a hub id; a `datasets.Dataset`; a list of dictionaries. Columns: `prompt`, `chosen`,
            `rejected`; `chosen`, `rejected` with a shared beginning; `prompt`, `completion`, `label`; or those
            of any other format in `distal.data.FORMATS`. Strings, or lists of messages.
        tokenizer: the model's Hugging Face tokenizer; its chat template writes conversations.
        max_length: tokens that a row may have, prompt and completion together; None for no limit.
        on_bad_rows: "drop" counts rows that cannot be used and leaves them out; "error" stops at the first.
        truncation: rows longer than `max_length`: "drop", "error", "truncate_prompt" (its end is kept) or
            "truncate_completion"; None does with them what `on_bad_rows` says.
        split: which split of a hub data set or a `datasets` folder with several; "train" by default.
        num_proc: processes that tokenise; None for this one alone.
        name: what to call data that has no path or id, in messages.
        reading: format, names of columns, and how grades become preferences; None to recognise the format.

    Returns:
        The tokenised data set; `.report` says what became of every row.

    Raises:
        DataError: the data is missing, broken, of unknown columns, or nothing usable is left.
        ConfigError: an option has a value that it cannot have.
        ModelError: the tokenizer has no end-of-text token, or a chat template that is no template.
        OutputError: the temporary file cannot be written.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = Tokenizer(
        ...     models.WordLevel({"<eos>": 0, "good": 1, "bad": 2, "film": 3}, unk_token="<eos>")
        ... )
        >>> words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
        >>> rows = [{"prompt": "film", "chosen": " good film", "rejected": " bad"}]
        >>> dataset = prepare_dataset(rows, tokenizer)
        >>> [(row.input_ids, row.prompt_length) for row in dataset[0]]
        [([3, 1, 3, 0], 1), ([3, 2, 0], 1)]
    """
    truncation = on_bad_rows if truncation is None else truncation
    _check_options(max_length, on_bad_rows, truncation, num_proc)
    source = open_preferences(data, reading, split=split, name=name)
    worker = _ChunkWorker(
        source.name, source.read, Encoder(tokenizer), tokenizer, max_length, on_bad_rows, truncation
    )
    tally, repeats, size = Tally(), Repeats(), _Size()
    items = source.items()
    first = list(itertools.islice(items, _CHUNK_ROWS))
    with RowWriter() as writer:
        chunks = _process(worker, _chunks(first, items), num_proc)
        for chunk in chunks if len(first) < _CHUNK_ROWS else _shown(chunks, source):
            tally.merge(chunk.tally)
            repeats.add(chunk.keys, chunk.source_rows)
            size.add(chunk.batch)
            writer.append(chunk.batch)
        store = writer.finish()
    tally.n_read = source.rows_seen()
    repeats.note(tally)
    report = _report(source, tally, size)
    _check_result(report, max_length)
    return TokenizedPreferences(store, source.kind, report)


@dataclass(slots=True)
class _Chunk:
    """What a chunk of rows became."""

    tally: Tally = field(default_factory=Tally)
    batch: ArrowBatch | None = None
    keys: list[tuple[int, bool]] = field(default_factory=list)
    source_rows: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Size:
    """Totals over the kept rows."""

    n_rows: int = 0
    n_desirable: int = 0
    n_tokens: int = 0
    longest: int = 0

    def add(self, batch: ArrowBatch) -> None:
        lengths = np.diff(batch.column("input_ids").offsets.to_numpy())
        self.n_rows += batch.num_rows
        self.n_desirable += int(np.count_nonzero(batch.column("desirable").to_numpy(zero_copy_only=False)))
        self.n_tokens += int(lengths.sum())
        self.longest = max(self.longest, int(lengths.max(initial=0)))


@dataclass(frozen=True, slots=True)
class _ChunkWorker:
    """Makes a chunk of source rows into tokenised rows; travels to other processes as a whole."""

    name: str
    read: Callable[[Item], Iterator[Preference | RowProblem]]
    encoder: Encoder
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    on_bad_rows: OnBadRows
    truncation: Truncation

    def __call__(self, numbered: list[tuple[int, Item]]) -> _Chunk:
        chunk, batch = _Chunk(), RowBatch()
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
                    yield render(made, number, self.tokenizer, self.name)
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
            texts = [
                (row.prompt, side) for row in rows if row.templated is templated for side in row.completions
            ]
            encoded[templated] = iter(self.encoder.encode(texts, templated=templated))
        for row in rows:
            yield list(itertools.islice(encoded[row.templated], len(row.completions)))

    def _keep(self, row: Rendered, sides: list[Encoding], chunk: _Chunk, batch: RowBatch) -> None:
        if not all(side.completion for side in sides):
            raise RowProblem("empty_completion", "a completion has no tokens", "remove or mend the row")
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
            batch.tokens += side.prompt + side.completion
            batch.lengths.append(len(side.prompt) + len(side.completion))
            batch.prompt_lengths.append(len(side.prompt))
            batch.desirable.append(desirable)
            batch.source_rows.append(row.source_row)
            batch.prompts.append(row.prompt if index == 0 else None)
            batch.completions.append(text)
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


def _chunks(
    first: list[tuple[int, Item]], rest: Iterator[tuple[int, Item]]
) -> Iterator[list[tuple[int, Item]]]:
    numbered = itertools.chain(first, rest)
    while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
        yield chunk


def _process(
    worker: _ChunkWorker, chunks: Iterable[list[tuple[int, Item]]], num_proc: int | None
) -> Iterator[_Chunk]:
    """Chunks in their order, made here or in other processes; only a few are in the air at a time."""
    if num_proc is None or num_proc == 1:
        yield from map(worker, chunks)
        return
    pending: deque[Future[_Chunk]] = deque()
    with ProcessPoolExecutor(num_proc, initializer=_start_process, initargs=(worker,)) as pool:
        for chunk in chunks:
            pending.append(pool.submit(_work, chunk))
            if len(pending) >= _AHEAD * num_proc:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _shown(chunks: Iterable[_Chunk], source: PreferenceSource) -> Iterator[_Chunk]:
    """The chunks, with a progress bar where they take longer than a moment."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        return iter(chunks)
    return follow(
        chunks,
        f"reading {Path(source.name).name}",
        total=source.count(),
        work=lambda chunk: chunk.tally.n_offered,
        patience=_PATIENCE,
    )


_worker_here: list[_ChunkWorker] = []
"""The worker of this process, where it is one that `_process` has started."""


def _start_process(worker: _ChunkWorker) -> None:
    # Processes are the parallelism here; threads of the tokenizer on top would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_here[:] = [worker]


def _work(chunk: list[tuple[int, Item]]) -> _Chunk:
    return _worker_here[0](chunk)


def _report(source: PreferenceSource, tally: Tally, size: _Size) -> DataReport:
    paired = source.kind == "paired"
    return DataReport(
        name=source.name,
        kind=source.kind,
        n_read=tally.n_read,
        n_offered=tally.n_offered,
        n_kept=size.n_rows // 2 if paired else size.n_rows,
        dropped=tally.dropped(),
        noted=tally.noted(),
        n_desirable=None if paired else size.n_desirable,
        n_tokens=size.n_tokens,
        longest=size.longest,
        notes=source.notes,
    )


def _check_options(max_length: object, on_bad_rows: str, truncation: str, num_proc: object) -> None:
    if on_bad_rows not in ("drop", "error"):
        raise ConfigError(f"on_bad_rows={on_bad_rows!r}: expected drop or error")
    check_truncation(truncation)
    for option, value, least in (("max_length", max_length, 2), ("num_proc", num_proc, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"{option}={value!r}: expected a whole number of at least {least}, or None")


def _check_result(report: DataReport, max_length: int | None) -> None:
    if report.n_kept == 0:
        raise DataError(
            "\n".join([f"{report.name}: no row can be used (max_length={max_length})", *report.summary()])
        )
    if report.n_desirable in (0, report.n_kept):
        only = "true" if report.n_desirable else "false"
        raise DataError(
            "\n".join(
                [
                    f"{report.name}: only the label {only} is present among the usable rows; unpaired "
                    f"alignment needs liked and disliked completions: add rows with the other label",
                    *report.summary(),
                ]
            )
        )
