"""Models and tokenised preferences, as every job needs them that scores one under the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from distal.data import ReadOptions, TokenizedPreferences, default_cache_dir, prepare_dataset
from distal.errors import ConfigError
from distal.scoring import LAYOUT_NAMES
from distal.scoring.loading import check_vocabulary, load_model, load_tokenizer
from distal.scoring.quantization import move
from distal.workflow.options import check_dtype
from distal.workflow.preparation import read_chat_template

__all__ = ["ScoringOptions", "scored_data", "scored_model", "scoring_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """What any job can be told that scores preferences.

    Attributes:
        data: preferences, paired or unpaired.
        split: split of a hub data set or `datasets` folder.
        tokenizer: None for the model's.
        chat_template: Jinja file; None for the tokenizer's.
        dtype: of the weights in memory, for both models.
        attn_implementation: None for transformers' choice.
        trust_remote_code: run Python code that comes with the models.
        max_length: longest prompt plus completion, tokens.
        truncation: drop, error, truncate_prompt or truncate_completion.
        loss_on: completion, last_turn or assistant_turns.
        on_bad_rows: drop or error.
        tokens_per_batch: tokens per forward pass, with padding; memory and speed only.
        layout: auto, padded, packed or prefix_shared; memory and speed only.
        progress: whether to show progress bars.
        reading: format of the data, names of its columns, how grades become preferences.
    """

    data: str
    split: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    max_length: int = 1024
    truncation: str = "drop"
    loss_on: str = "completion"
    on_bad_rows: str = "drop"
    tokens_per_batch: int = 8192
    layout: str = "auto"
    progress: bool = True
    reading: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        for name, least in (("max_length", 2), ("tokens_per_batch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if self.layout not in LAYOUT_NAMES:
            raise ConfigError(f"layout must be one of {', '.join(LAYOUT_NAMES)}; got {self.layout!r}.")
        check_dtype(self.dtype)


def scoring_tokenizer(model: str, options: ScoringOptions) -> PreTrainedTokenizerBase:
    """The tokenizer that was asked for, or the model's, with the chat template that was asked for."""
    tokenizer: Any = load_tokenizer(options.tokenizer or model, trust_remote_code=options.trust_remote_code)
    if options.chat_template is not None:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    return tokenizer


def scored_data(
    options: ScoringOptions,
    tokenizer: PreTrainedTokenizerBase,
    tell: Callable[[str], None] = lambda line: None,
    *,
    cache_dir: Path | None = None,
    both_labels: bool = True,
) -> TokenizedPreferences:
    """The preferences as token rows, which are kept in a cache; `tell` is called with each line of the data report."""
    data = prepare_dataset(
        options.data,
        tokenizer,
        max_length=options.max_length,
        on_bad_rows=cast(Any, options.on_bad_rows),  # checked there
        truncation=cast(Any, options.truncation),
        split=options.split,
        name="data",
        reading=options.reading,
        cache_dir=default_cache_dir() if cache_dir is None else cache_dir,
        loss_on=cast(Any, options.loss_on),
        both_labels=both_labels,
    )
    for line in data.report.summary():
        tell(line)
    return data


def scored_model(
    name: str, options: ScoringOptions, tokenizer: PreTrainedTokenizerBase, *, revision: str | None = None
) -> Any:
    """A model or adapter on the best device, with a vocabulary that holds the tokenizer's."""
    from accelerate import PartialState

    model = load_model(
        name,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        trust_remote_code=options.trust_remote_code,
        revision=revision,
    )
    model = move(model, PartialState().device)
    check_vocabulary(model, tokenizer)
    return model
