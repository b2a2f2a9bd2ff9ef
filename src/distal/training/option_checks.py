"""Checks of options that need nothing but their values: whole numbers, names out of a list, what excludes what."""

from __future__ import annotations

from typing import Any, get_args

from distal.data.turns import LOSS_ON
from distal.errors import ConfigError
from distal.objectives import Objective, objective_names
from distal.scoring import LAYOUT_NAMES
from distal.scoring.compilation import check_backend
from distal.training.engine import Strategy
from distal.training.suggestions import nearest
from distal.types import DataKind

__all__ = ["check_choices", "check_compilation", "check_data_kind", "check_numbers"]

_AT_LEAST = {
    "global_batch_size": 1,
    "micro_batch_size": 1,
    "tokens_per_micro_batch": 1,
    "max_length": 2,
    "reference_tokens_per_batch": 1,
    "dataset_num_proc": 1,
    "stream_capacity": 1,
    "sample_prompts": 0,
    "sample_new_tokens": 1,
}


def check_numbers(args: Any) -> None:
    """Refuse whole numbers below their least value, and what is none; None stands for a default.

    Raises:
        ConfigError: naming the option.
    """
    for name, least in _AT_LEAST.items():
        value = getattr(args, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    if args.max_steps <= 0 and not args.num_train_epochs > 0:
        raise ConfigError(
            f"num_train_epochs: expected a number above 0, got {args.num_train_epochs!r}; or set max_steps"
        )


def check_data_kind(objective: Objective, kind: DataKind, name: str) -> None:
    """Refuse a kind of data that the objective cannot use.

    Args:
        objective: what is minimised.
        kind: paired or unpaired.
        name: what the data is called in the message.

    Raises:
        ConfigError: the objective needs pairs.
    """
    if objective.needs == "paired" and kind != "paired":
        raise ConfigError(
            f"objective: {objective.name} needs pairs (prompt, chosen, rejected), but the {name} data is "
            "unpaired (prompt, completion, label). Use aot_unpaired or kto, or give paired data."
        )


def check_choices(args: Any) -> None:
    """Refuse names that are not among those known.

    Raises:
        ConfigError: naming the option, and the nearest name that exists.
    """
    choices = {
        "objective": objective_names(),
        "layout": LAYOUT_NAMES,
        "strategy": get_args(Strategy),
        "order_statistics": ("batch", "stream"),
        "truncation": (None, "drop", "error", "truncate_prompt", "truncate_completion"),
        "on_bad_rows": ("drop", "error"),
        "loss_on": LOSS_ON,
    }
    for name, known in choices.items():
        value = getattr(args, name)
        if value not in known:
            raise ConfigError(f"{name}: {value!r} is unknown{nearest(value, [k for k in known if k])}")


def check_compilation(args: Any) -> None:
    """Refuse ways of compiling that exclude each other, or other options.

    Raises:
        ConfigError: naming the options.
    """
    if args.torch_compile and args.layout not in ("auto", "padded"):
        raise ConfigError(f"layout: {args.layout} does not go with torch_compile; set padded")
    if args.compile_blocks and args.torch_compile:
        raise ConfigError("torch_compile compiles the whole model, compile_blocks its blocks; set one")
    if args.compile_blocks and args.strategy == "deferred":
        raise ConfigError("strategy: deferred looks into blocks, which compile_blocks closes; set auto")
    if args.compile_backend is not None:
        if not args.compile_blocks:
            raise ConfigError("compile_backend has no effect without compile_blocks; leave it out")
        check_backend(args.compile_backend)
