"""The way from a user's rows to a tokenised data set, with every row accounted for."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distal.data.chunks import Chunk, ChunkWorker, OnBadRows, process_chunks
from distal.data.identity import rows_key, tokenizer_digest
from distal.data.loading import DataLike
from distal.data.preferences import TokenizedPreferences
from distal.data.reading import Item, PreferenceSource, ReadOptions, open_preferences
from distal.data.repeats import Repeats
from distal.data.report import DataReport, Tally
from distal.data.row_cache import RowCache
from distal.data.store import ArrowBatch, RowStore, RowWriter
from distal.data.tokenization import Encoder
from distal.data.truncation import Truncation, check_truncation
from distal.data.turns import LossOn, check_loss_on
from distal.errors import CacheError, ConfigError, DataError, OutputError
from distal.progress import follow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["OnBadRows", "prepare_dataset"]

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 1000
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
    cache_dir: str | Path | None = None,
    loss_on: LossOn = "completion",
    both_labels: bool = True,
) -> TokenizedPreferences:
    """Read, check and tokenise preference data.

    Rows pass by in small portions and end up in a file that is mapped into memory: the size of the data set is limited
    by the disk. With `cache_dir` that file is kept under a digest of all that it depends on (the rows, the tokenizer
    with its chat template, the options, the code), and found there the next time instead of tokenising again. Without,
    it is a temporary one (in the folder that TMPDIR names); less than 1,000 rows stay in memory. Where it takes
    longer, a progress bar is shown, unless those of transformers are switched off
    (`transformers.utils.logging.disable_progress_bar`).

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
        num_proc: processes that tokenise; None for this one alone. The result is the same, byte for byte.
        name: what to call data that has no path or id, in messages.
        reading: format, names of columns, and how grades become preferences; None to recognise the format.
        cache_dir: folder for tokenised rows, such as `distal.data.default_cache_dir()`; None keeps none. Rows of a list
            in memory are never kept.
        loss_on: which tokens of a completion are scored: "completion" (all behind the prompt), "last_turn" (of the
            assistant) or "assistant_turns" (what the user and tools say in between is read, and not scored).
        both_labels: refuse unpaired data of which one label alone is left, as is right before training or a comparison.

    Returns:
        The tokenised data set; `.report` says what became of every row.

    Raises:
        DataError: the data is missing, broken, of unknown columns, or nothing usable is left.
        ConfigError: an option has a value that it cannot have.
        ModelError: the tokenizer has no end-of-text token, or a chat template that is no template.
        OutputError: the file of tokenised rows cannot be written.

    Examples:
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
    check_loss_on(loss_on)
    source = open_preferences(data, reading, split=split, name=name)
    worker = ChunkWorker(
        source.name, source.read, Encoder(tokenizer), tokenizer, max_length, on_bad_rows, truncation, loss_on
    )
    cache = None if cache_dir is None else RowCache(cache_dir)
    key = None if cache is None else _key(source, worker, reading)
    store, report = (
        _tokenised(source, worker, num_proc)
        if cache is None or key is None
        else (_cached(cache, key, source, worker, num_proc))
    )
    if both_labels:
        _check_labels(report)
    return TokenizedPreferences(store, source.kind, report)


def _key(source: PreferenceSource, worker: ChunkWorker, reading: ReadOptions | None) -> str | None:
    """Name of the rows in the cache; None for rows in memory, and for tokenizers of which nothing is known."""
    tokenizer = tokenizer_digest(worker.tokenizer)
    if source.content is None or tokenizer is None:
        return None
    options: dict[str, Any] = {
        name: getattr(worker, name) for name in ("max_length", "on_bad_rows", "truncation", "loss_on")
    }
    read = dataclasses.asdict(reading or ReadOptions())
    return rows_key(source.content.digest(), tokenizer, {**options, **read, "kind": source.kind})


def _cached(
    cache: RowCache, key: str, source: PreferenceSource, worker: ChunkWorker, num_proc: int | None
) -> tuple[RowStore, DataReport]:
    """Rows from the cache, tokenised where they are not there."""
    content = source.content
    before = None if content is None else content.stamp()

    def make(path: Path) -> dict[str, Any]:
        return _tokenised(source, worker, num_proc, path)[1].to_dict()

    def keep() -> bool:
        return content is not None and content.stamp() == before

    try:
        found = cache.load(key)  # a cache that is there for reading only serves as well
        if found is None:
            cache.check_writable()
    except CacheError:
        found = None  # `fetch` will say so, and mend it
    except OutputError as error:
        logger.warning("%s. They go to a temporary file this time.", error)
        return _tokenised(source, worker, num_proc)
    store, known = cache.fetch(key, make, keep=keep) if found is None else found
    report = DataReport.from_dict(known)
    return store, dataclasses.replace(report, name=source.name, notes=source.notes)


def _tokenised(
    source: PreferenceSource, worker: ChunkWorker, num_proc: int | None, path: Path | None = None
) -> tuple[RowStore, DataReport]:
    """All rows of a source, written to a file, and what became of them.

    Args:
        source: opened data.
        worker: makes rows of its items.
        num_proc: processes.
        path: file for the rows; None for a temporary one, or memory where they are few.
    """
    tally, repeats, size = Tally(), Repeats(), _Size()
    items = source.items()
    first = list(itertools.islice(items, _CHUNK_ROWS))
    small = len(first) < _CHUNK_ROWS
    with RowWriter(path, in_memory=small and path is None) as writer:
        chunks = process_chunks(worker, _chunks(first, items), None if small else num_proc)
        for chunk in chunks if small else _shown(chunks, source):
            tally.merge(chunk.tally)
            repeats.add(chunk.keys, chunk.source_rows)
            size.add(chunk.batch)
            writer.append(chunk.batch)
        store = writer.finish()
    tally.n_read = source.rows_seen()
    repeats.note(tally)
    report = _report(source, tally, size)
    if report.n_kept == 0:
        reason = f"{report.name}: no row can be used (max_length={worker.max_length})"
        raise DataError("\n".join([reason, *report.summary()]))
    return store, report


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


def _chunks(
    first: list[tuple[int, Item]], rest: Iterator[tuple[int, Item]]
) -> Iterator[list[tuple[int, Item]]]:
    numbered = itertools.chain(first, rest)
    while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
        yield chunk


def _shown(chunks: Iterable[Chunk], source: PreferenceSource) -> Iterator[Chunk]:
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


def _check_labels(report: DataReport) -> None:
    if report.n_desirable in (0, report.n_kept):
        only = "true" if report.n_desirable else "false"
        reason = (
            f"{report.name}: only the label {only} is present among the usable rows; unpaired "
            f"alignment needs liked and disliked completions: add rows with the other label"
        )
        raise DataError("\n".join([reason, *report.summary()]))
