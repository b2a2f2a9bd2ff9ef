"""Tokenizer and data, loaded and checked before anything expensive starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from distal.data import TokenizedPreferences, carry_threshold, open_preferences, prepare_dataset
from distal.errors import ConfigError, DataError
from distal.scoring.loading import load_tokenizer
from distal.training import AlignmentConfig
from distal.workflow.options import DataOptions, ModelOptions

__all__ = ["check_enough", "prepared_data", "prepared_tokenizer", "read_chat_template", "report_lines"]


def prepared_tokenizer(options: ModelOptions) -> PreTrainedTokenizerBase:
    """The tokenizer of a run, with the user's chat template where one is given."""
    tokenizer = load_tokenizer(
        options.tokenizer or options.model,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision if options.tokenizer is None else None,
    )
    if options.chat_template is not None:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    return tokenizer


def read_chat_template(path: str) -> str:
    """Text of a Jinja file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat_template: cannot read {path} ({error}); name a Jinja file.") from None


def prepared_data(
    options: DataOptions, training: AlignmentConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenizedPreferences, TokenizedPreferences]:
    """Training and held-out preferences.

    Raises:
        DataError: a source cannot be used, or too little is left to train on or to hold out.
    """
    settings: dict[str, Any] = {
        "max_length": training.max_length,
        "on_bad_rows": training.on_bad_rows,
        "truncation": training.truncation,
        "num_proc": training.dataset_num_proc,
        "cache_dir": training.row_cache_dir,
        "loss_on": training.loss_on,
        "reading": options.reading(),
    }
    whole = prepare_dataset(options.data, tokenizer, split=options.split, name="train", **settings)
    if options.held_out is None:
        data, reading = options.eval_data or options.data, options.reading()
        source, other = (
            open_preferences(name, reading, split=split, name=role)
            for name, split, role in (
                (options.data, options.split, "train"),
                (data, options.eval_split, "eval"),
            )
        )
        settings["reading"] = carry_threshold(source, other, reading)
        train = whole
        held_out = prepare_dataset(data, tokenizer, split=options.eval_split, name="eval", **settings)
    else:
        train, held_out = whole.shuffled_split(options.held_out, training.seed)
    _check_kinds(train, held_out)
    _check_labels(train, "training")
    _check_labels(held_out, "held-out")
    return train, held_out


def report_lines(train: TokenizedPreferences, held_out: TokenizedPreferences) -> list[str]:
    """What became of every row, and how many are trained on and held out."""
    unit = "pairs" if train.kind == "paired" else "samples"
    reports = [train.report] if held_out.report is train.report else [train.report, held_out.report]
    lines = [line for report in reports for line in report.summary()]
    return [*lines, f"{len(train)} {unit} to train on, {len(held_out)} held out"]


def check_enough(dataset: TokenizedPreferences, name: str, remedy: str = "give more") -> None:
    """Refuses data whose rewards would be no distribution: of either side at least two are needed.

    Args:
        dataset: rows as tokens.
        name: what they are called in the message: their file, say.
        remedy: what to do about it.

    Raises:
        DataError: saying what is there.
    """
    if dataset.kind == "paired":
        counts = {"pair": len(dataset)}
    else:
        liked = int(dataset.labels.sum())
        counts = {"liked sample": liked, "disliked sample": len(dataset) - liked}
    for what, count in counts.items():
        if count < 2:
            raise DataError(f"{name}: {count} {what}{'s' * (count != 1)}; at least 2 are needed; {remedy}")


def _check_kinds(train: TokenizedPreferences, held_out: TokenizedPreferences) -> None:
    """Refuses held-out data of another kind than the training data."""
    if train.kind != held_out.kind:
        raise DataError(
            f"the training data is {train.kind} but the held-out data is {held_out.kind}; give both with the "
            "same columns."
        )


def _check_labels(dataset: TokenizedPreferences, role: str) -> None:
    """Refuses data that says nothing about a preference, before hours are spent on it."""
    remedy = "give more data" if role == "training" else "hold out more (eval_size) or give eval_data"
    if len(dataset) == 0:
        raise DataError(
            f"no usable rows are left as {role} data; {remedy}, or see in the report why rows were dropped."
        )
    if dataset.kind == "unpaired":
        liked = int(dataset.labels.sum())
        if liked in (0, len(dataset)):
            label = "true" if liked else "false"
            raise DataError(
                f"all {len(dataset)} rows of the {role} data have the label {label}; a preference needs both "
                f"labels: {remedy}."
            )
