"""From a YAML file and command-line words to `AlignOptions`, and from those back to YAML."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import distal
from distal.errors import ConfigError, DistalError
from distal.workflow.options import AlignOptions, DataOptions, LoraOptions, ModelOptions
from distal.workflow.schema import USE_INSTEAD, Schema, align_schema
from distal.workflow.sources import (
    COMMAND_LINE,
    Given,
    parse_command_line,
    read_yaml,
    without_stale_splits,
)

if TYPE_CHECKING:
    from distal.training import AlignmentConfig

__all__ = [
    "differing_keys",
    "objective_settings",
    "options_from",
    "resolve_options",
    "resolved_mapping",
    "resolved_yaml",
]

_SECTIONS = {"Model": ModelOptions, "Data": DataOptions, "LoRA": LoraOptions}

_ALWAYS_WRITTEN = (
    "output_dir",
    "seed",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
)
"""Fields of `TrainingArguments` that shape the result: written even where the user left the default."""

_NOT_THE_RUN = frozenset(
    {
        *("output_dir", "run_name", "report_to", "project", "log_level", "log_level_replica", "disable_tqdm"),
        *("logging_steps", "logging_strategy", "logging_first_step", "save_total_limit"),
        *("dataset_num_proc", "dataset_cache", "dataset_cache_dir"),
        *(
            "micro_batch_size",
            "tokens_per_micro_batch",
            "layout",
            "compile_blocks",
            "compile_backend",
            "strategy",
            "memory_budget_gib",
            "deferred_dtype",
            "dataloader_num_workers",
            "reference_cache_dir",
        ),
        *("gradient_checkpointing", "activation_checkpointing", "dataloader_prefetch_factor", "health"),
    }
)
"""Options of memory, speed or logs, not of what is learnt: they may differ when a run is resumed."""


def resolve_options(
    config: str | Path | None,
    words: Sequence[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
) -> AlignOptions:
    """Options of a run from a YAML file and command-line words, which win.

    Args:
        config: YAML file, or None.
        words: `--key value`, `--key=value`, `--flag`, `--no-flag`.
        resume: go on with the run in the output folder.
        overwrite: replace the run in the output folder.
        command: the command as typed, for the record.

    Raises:
        ConfigError: with every problem found, each with the place it comes from.
    """
    schema = align_schema()
    from_file, problems = ([], []) if config is None else read_yaml(config)
    from_words, more = parse_command_line(words, is_known=schema.__contains__, is_switch=schema.is_switch)
    problems = [*problems, *more]
    from_file, notes = without_stale_splits(from_file, from_words)
    given = {option.key: option for option in (*from_file, *from_words)}  # the command line wins
    values = _validated(schema, given.values(), problems)
    problems += _missing(schema, given)
    if problems:  # report contradictions along with them, rather than one at a time
        stand_ins = {name: values.get(name, "?") for name in ("model", "data", "output_dir")}
        problems += _sections({**values, **stand_ins})[1]
    raise_problems(problems)
    return options_from(values, resume=resume, overwrite=overwrite, command=command, notes=notes)


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one `ConfigError` with all problems, if there are any."""
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise ConfigError(f"{len(problems)} problems with the options:\n{lines}")


def _validated(schema: Schema, given: Iterable[Given], problems: list[str]) -> dict[str, Any]:
    """Checks each option by its type; appends what is wrong to `problems`."""
    values: dict[str, Any] = {}
    for option in given:
        reason = schema.why_not(option.key)
        if reason is not None:
            name = f"--{option.key.replace('_', '-')}" if option.where == COMMAND_LINE else option.key
            problems.append(f"{option.where}: {name}: {reason}.".replace("?.", "?"))
            continue
        try:
            values[option.key] = schema[option.key].validate(option.value, option.text)
        except ValueError as error:
            problems.append(f"{option.where}: {option.key}: {error}.")
    return values


def _missing(schema: Schema, given: Mapping[str, Given]) -> list[str]:
    """Messages about options that have no default and were not given."""
    required = {name: option.help for name, option in schema.options.items() if option.required}
    required["output_dir"] = "folder for the result, checkpoints and logs"
    return [
        f"{name} is missing ({text}): give --{name.replace('_', '-')}, or `{name}: ...` in the YAML file."
        for name, text in required.items()
        if name not in given
    ]


def options_from(
    values: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    notes: Sequence[str] = (),
) -> AlignOptions:
    """Builds `AlignOptions` from one flat mapping of validated values.

    Raises:
        ConfigError: options contradict each other or have no effect; all sections are checked first.
    """
    parts, problems = _sections(values)
    raise_problems(problems)
    return AlignOptions(
        model=parts["Model"],
        data=parts["Data"],
        lora=parts["LoRA"],
        training=parts["Training"],
        resume=resume,
        overwrite=overwrite,
        command=command,
        notes=tuple(notes),
    )


def _sections(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The dataclass of each section by its title, and a message for each that refuses its values."""
    from distal.training import AlignmentConfig

    parts: dict[str, Any] = {}
    problems: list[str] = []
    for title, owner in {**_SECTIONS, "Training": AlignmentConfig}.items():
        names = {item.name for item in dataclasses.fields(owner)}
        try:
            if title == "Training":
                _check_best_model(values)
            parts[title] = owner(**{key: value for key, value in values.items() if key in names})
        except DistalError as error:
            problems.append(str(error))
        except (ValueError, TypeError, ImportError) as error:  # raised by TrainingArguments
            said = " ".join(str(error).split())
            problems.append(f"transformers refuses these training options: {said}")
    return parts, problems


def _check_best_model(values: Mapping[str, Any]) -> None:
    """Refuses to look for the best of checkpoints that are not evaluated; transformers says so less clearly."""
    evaluated, saved = values.get("eval_strategy") or "no", values.get("save_strategy") or "steps"
    if values.get("load_best_model_at_end") and saved not in ("best", evaluated):
        raise ConfigError(
            f"load_best_model_at_end needs an evaluation of every checkpoint, but eval_strategy is {evaluated} and "
            f"save_strategy is {saved}; set eval_strategy and save_strategy alike."
        )


def _plain(value: object) -> object:
    """A value as YAML can hold it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def objective_settings(training: AlignmentConfig) -> dict[str, Any]:
    """The options of the objective as they act, defaults included.

    Examples:
        >>> from distal.training import AlignmentConfig
        >>> settings = objective_settings(AlignmentConfig(output_dir="run", objective="aot", cost="hinge"))
        >>> settings["cost"], settings["margin"], settings["sort"]
        ('hinge', 0.01, 'hard')
    """
    objective: Any = training.build_objective()
    settings = {item.name: getattr(objective, item.name) for item in dataclasses.fields(objective)}
    if hasattr(objective, "gap_cost"):
        cost = dataclasses.replace(objective, label_smoothing=0.0).gap_cost()
        settings |= {name: getattr(cost, name, None) for name in ("beta", "margin")}
    if settings.get("sort_group") is None:
        settings.pop("sort_group_seed", None)  # without groups there is nothing to seed
    known = {item.name for item in dataclasses.fields(training)}
    return {name: value for name, value in settings.items() if value is not None and name in known}


def resolved_mapping(options: AlignOptions) -> dict[str, Any]:
    """One flat mapping that defines the run: Distal's options in full, and what is not default of the others.

    Options without effect (adapter settings without `lora`, empty ones) are left out.
    """
    from distal.training.config import OWN_FIELDS, AlignmentConfig

    mapping: dict[str, Any] = {}
    parts: list[Any] = [options.model, options.data] + ([options.lora] if options.lora.lora else [])
    for part in parts:
        mapping |= {item.name: getattr(part, item.name) for item in dataclasses.fields(part)}
    mapping["eval_size"] = options.data.held_out
    training = options.training.to_dict()
    # Without use_cpu a config cannot be made by one of several processes on a machine without GPUs.
    default = AlignmentConfig(
        output_dir=options.training.output_dir, use_cpu=options.training.use_cpu
    ).to_dict()
    default["use_cpu"] = False
    own = [*OWN_FIELDS, *(name for name in _ALWAYS_WRITTEN if name in training)]
    changed = [name for name, value in training.items() if name not in own and value != default.get(name)]
    # Later versions of transformers mirror gradient_checkpointing under this name; earlier ones do not know it.
    mirrored = {name for name in training if name.startswith("activation_checkpointing")}
    dropped = {*USE_INSTEAD, *mirrored}
    # Not from to_dict, which blots out every name that ends in _token.
    mapping |= {name: getattr(options.training, name) for name in own if name not in dropped}
    mapping |= {name: training[name] for name in changed if name not in dropped}
    mapping |= objective_settings(options.training)
    return {name: _plain(value) for name, value in mapping.items() if value is not None}


def resolved_yaml(options: AlignOptions) -> str:
    """The resolved configuration as a file that `distal align --config` accepts."""
    header = (
        f"# The resolved options of this run, written by Distal {distal.__version__}. To repeat it:\n"
        "#   distal align --config THIS_FILE --output-dir ANOTHER_FOLDER\n"
    )
    return header + yaml.safe_dump(resolved_mapping(options), sort_keys=False, allow_unicode=True)


def differing_keys(options: AlignOptions, recorded: AlignOptions) -> list[str]:
    """Describes what would change if a recorded run were resumed with `options`; empty if nothing would."""
    now, then = resolved_mapping(options), resolved_mapping(recorded)
    return [
        f"{key}: the run has {then.get(key)!r}, now {now.get(key)!r}"
        for key in (*then, *(key for key in now if key not in then))
        if key not in _NOT_THE_RUN and then.get(key) != now.get(key)
    ]
