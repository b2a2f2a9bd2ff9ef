"""What `distal data check`, `convert` and `split` do, from the user's words to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distal.data import ReadOptions, default_cache_dir, open_preferences, prepare_dataset
from distal.data.checking import CheckSettings, DataCheck, check_data
from distal.data.conversion import convert, split
from distal.data.report import DataReport
from distal.errors import ConfigError, DataError, OutputError
from distal.evaluation.files import write_atomically

__all__ = ["CheckOptions", "check", "check_json", "convert_file", "split_file"]


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What `distal data check` can be told.

    Attributes:
        data: what to check.
        split: split of it, where there are several.
        reading: format, names of columns, chat, grades.
        eval_data: held-out files, whose prompts should not occur in `data`; read in the same way.
        eval_split: split of each of them, or of `data` where none is given.
        tokenizer: folder or hub id of a tokenizer or model; None for a check of the texts alone.
        chat_template: Jinja file; None for the tokenizer's.
        trust_remote_code: run Python code that comes with the tokenizer.
        max_length: longest prompt plus completion, tokens.
        truncation: drop, error, truncate_prompt or truncate_completion.
        num_proc: processes that tokenise.
        samples: completions to show.
        html: file for the report.
        overwrite: whether it may be replaced.
    """

    data: str
    split: str | None = None
    reading: ReadOptions = ReadOptions()
    eval_data: Sequence[str] = ()
    eval_split: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None
    truncation: str | None = None
    num_proc: int | None = None
    samples: int = 4
    html: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        needs_tokenizer = {
            "max_length": self.max_length,
            "truncation": self.truncation,
            "chat_template": self.chat_template,
            "num_proc": self.num_proc,
        }
        idle = [name for name, value in needs_tokenizer.items() if value is not None]
        if self.tokenizer is None and idle:
            raise ConfigError(
                f"{', '.join(idle)}: no effect without tokenizer; give --tokenizer, or leave it out"
            )
        if self.samples < 0:
            raise ConfigError(f"samples must be at least 0; got {self.samples}")
        if self.overwrite and self.html is None:
            raise ConfigError("overwrite has no effect without html; leave it out")


def check(options: CheckOptions) -> DataCheck:
    """Checks data, and writes the HTML report where one is wanted.

    Raises:
        DistalError: the data cannot be read at all, or an option does not fit it.
    """
    if options.html is not None and options.html.exists() and not options.overwrite:
        raise OutputError(
            f"{options.html} exists already; nothing was touched. Name another place, or add --overwrite."
        )
    source = open_preferences(options.data, options.reading, split=options.split, name="data")
    names = list(options.eval_data) or ([options.data] if options.eval_split is not None else [])
    held_out = tuple(
        open_preferences(name, options.reading, split=options.eval_split, name="eval") for name in names
    )
    tokenizer: Any = None
    tokenized: Any = None
    if options.tokenizer is not None:
        tokenizer = _tokenizer(options)
        tokenized = _tokenized(options, tokenizer)
    result = check_data(
        source,
        CheckSettings(samples=options.samples, held_out=held_out),
        tokenized=tokenized,
        tokenizer=tokenizer,
    )
    if options.html is not None:
        from distal.report.data_html import check_html

        write_atomically(options.html, check_html(result).encode())
    return result


def _tokenizer(options: CheckOptions) -> Any:
    from distal.scoring.loading import load_tokenizer
    from distal.workflow.preparation import read_chat_template

    tokenizer: Any = load_tokenizer(options.tokenizer or "", trust_remote_code=options.trust_remote_code)
    if options.chat_template is not None:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    return tokenizer


def _tokenized(options: CheckOptions, tokenizer: Any) -> Any:
    """The tokenised data, or the error that a run would stop with: it is part of the check."""
    try:
        return prepare_dataset(
            options.data,
            tokenizer,
            max_length=1024 if options.max_length is None else options.max_length,
            truncation=cast(Any, options.truncation),  # checked there
            split=options.split,
            num_proc=options.num_proc,
            name="data",
            reading=options.reading,
            cache_dir=default_cache_dir(),
        )
    except DataError as error:
        return error


def check_json(result: DataCheck) -> str:
    """The check as one JSON document."""
    return json.dumps(result.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)


def convert_file(
    data: str,
    output: Path,
    reading: ReadOptions,
    *,
    split: str | None = None,
    on_bad_rows: str = "drop",
    overwrite: bool = False,
) -> DataReport:
    """Writes data in TRL's columns.

    Raises:
        DistalError: anything that the user can mend.
    """
    if on_bad_rows not in ("drop", "error"):
        raise ConfigError(f"on_bad_rows={on_bad_rows!r}: expected drop or error")
    source = open_preferences(data, reading, split=split, name="data")
    _refuse_own_source(data, output)
    return convert(source, output, overwrite=overwrite, on_bad_rows=cast(Any, on_bad_rows))


def split_file(
    data: str,
    train: Path,
    held_out: Path,
    reading: ReadOptions,
    *,
    eval_size: float,
    seed: int = 0,
    split_name: str | None = None,
    overwrite: bool = False,
) -> tuple[DataReport, int]:
    """Writes data into two files in TRL's columns that share no prompt.

    Raises:
        DistalError: anything that the user can mend.
    """
    if train.resolve() == held_out.resolve():
        raise ConfigError(f"both parts would go to {train}; name two files")
    source = open_preferences(data, reading, split=split_name, name="data")
    for output in (train, held_out):
        _refuse_own_source(data, output)
    size = int(eval_size) if eval_size >= 1 and eval_size == int(eval_size) else eval_size
    return split(source, train, held_out, size, seed=seed, overwrite=overwrite)


def _refuse_own_source(data: str, output: Path) -> None:
    """A file cannot be replaced while it is read."""
    if output.exists() and Path(data).exists() and output.samefile(data):
        raise OutputError(f"{output} is the data itself; name another file to write")
