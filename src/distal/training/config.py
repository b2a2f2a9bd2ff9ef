"""Settings of an alignment run: everything of `transformers.TrainingArguments`, and Distal's own."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from distal.caching import default_cache_dir
from distal.data.preparation import OnBadRows
from distal.data.truncation import Truncation
from distal.data.turns import LossOn
from distal.errors import ConfigError
from distal.objectives import Objective, get_objective
from distal.objectives.streaming import check_streamable
from distal.scoring import LayoutName
from distal.scoring.compilation import DEFAULT_BACKEND
from distal.training.best import better_is_greater
from distal.training.engine import MicroBatchLimit, Strategy
from distal.training.health.thresholds import HealthThresholds
from distal.training.memory import GIB
from distal.training.option_checks import check_choices, check_compilation, check_numbers
from distal.training.refused import refuse_accelerator_config, refuse_options
from distal.training.samples import check_sampling
from distal.training.suggestions import nearest

__all__ = ["AlignmentConfig"]

DEFAULT_TOKENS_PER_MICRO_BATCH = 8192
# Of order_statistics: stream. How they were chosen: docs/concepts/streaming.md.
DEFAULT_STREAM_HALF_LIFE = 16.0
DEFAULT_STREAM_CAPACITY = 65_536

_OBJECTIVE_OPTIONS = (
    "beta",
    "margin",
    "cost",
    "sort",
    "soft_sort_strength",
    "soft_sort_regularization",
    "label_smoothing",
    "sort_group",
    "sort_group_seed",
    "quantile_weighting",
    "desirable_weight",
    "undesirable_weight",
    "kl_baseline",
    "per_token",
    "parts",
)


_DEFERRED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(kw_only=True)
class AlignmentConfig(TrainingArguments):
    """Settings of an alignment run.

    Every field of `transformers.TrainingArguments` keeps its meaning, except those that would change the objective,
    which are refused. The batch is set by `global_batch_size` alone; `micro_batch_size` or `tokens_per_micro_batch`
    only decide how much memory it takes.

    Raises:
        ConfigError: an option is unknown to the objective, contradicts another, or is out of range.

    Examples:
        >>> config = AlignmentConfig(
        ...     output_dir="run", objective="aot", global_batch_size=32, report_to="none"
        ... )
        >>> config.build_objective().name
        'aot'
    """

    objective: str = _option(
        "aot", "What to minimise: aot, aot_unpaired, dpo, ... (distal.objectives.objective_names)."
    )
    beta: float | None = _option(
        None, "Slope of a logistic cost, 1/nats. None for the objective's own default (AOT 0.01, DPO 0.1)."
    )
    margin: float | None = _option(None, "Margin of a hinge, squared hinge or least-squares cost, in nats.")
    cost: str | None = _option(
        None, "Cost of a dominance violation: logistic (default), squared_hinge, hinge or least_squares."
    )
    sort: str | None = _option(None, "hard (default) or soft.")
    soft_sort_strength: float | None = _option(None, "Strength of the soft sort, 1/nats.")
    label_smoothing: float | None = _option(
        None, "Probability that a preference label is wrong, in [0, 0.5)."
    )
    sort_group: int | None = _option(
        None, "Samples sorted together. None for the whole optimizer batch; 1 turns AOT into DPO."
    )
    soft_sort_regularization: str | None = _option(None, "Soft sort: l2 (default) or entropic.")
    sort_group_seed: int | None = _option(None, "Seed of the partition into sort groups (default 0).")
    quantile_weighting: list[float] | None = _option(
        None, "Band of quantile levels that counts, such as [0, 0.1] for the lower tail; None for all alike."
    )
    desirable_weight: float | None = _option(None, "KTO: weight of desirable samples (default 1).")
    undesirable_weight: float | None = _option(None, "KTO: weight of undesirable samples (default 1).")
    kl_baseline: str | None = _option(
        None, "KTO: what rewards are measured from, batch (default: the batch's mean reward) or none."
    )
    per_token: bool | None = _option(None, "sft: divide by tokens instead of by completions.")
    parts: list[dict[str, Any]] | None = _option(
        None, "mix: its parts, each with objective, weight, and options of that objective."
    )
    global_batch_size: int = _option(
        64,
        "Pairs (or samples of both labels, when unpaired) per optimizer step, over all devices: the unit of the loss.",
    )
    micro_batch_size: int | None = _option(
        None,
        "Pairs (or samples) in one forward pass. Memory and speed only; excludes tokens_per_micro_batch.",
    )
    tokens_per_micro_batch: int | None = _option(
        None,
        f"Tokens in one forward pass, with padding (default {DEFAULT_TOKENS_PER_MICRO_BATCH}). Memory and speed only.",
    )
    layout: LayoutName = _option(
        "auto",
        "How rows are laid out: auto (tries and chooses), padded, packed, prefix_shared. Speed and memory only.",
    )
    strategy: Strategy = _option(
        "auto",
        "How the whole batch's gradient is computed: auto (measures, chooses), single, retain, deferred, recompute.",
    )
    memory_budget_gib: float | None = _option(
        None,
        "GiB that the strategies retain, deferred and auto may keep; None for what is free, 0 for nothing.",
    )
    deferred_dtype: Literal["float32", "bfloat16"] | None = _option(
        None,
        "Type in which deferred stores gradients of single pairs or samples; None for the adapter's own.",
    )
    order_statistics: Literal["batch", "stream"] = _option(
        "batch",
        "Where AOT's order statistics come from: the sorted optimizer batch, or (experimental) stream: running laws of "
        "the rewards of past steps.",
    )
    stream_half_life: float | None = _option(
        None, f"stream: steps after which a past reward counts half (default {DEFAULT_STREAM_HALF_LIFE:g})."
    )
    stream_capacity: int | None = _option(
        None, f"stream: past rewards that each law keeps at most (default {DEFAULT_STREAM_CAPACITY})."
    )
    compile_blocks: bool = _option(
        False, "Compile each decoder block (torch.compile), for rows of any length. Speed only."
    )
    compile_backend: str | None = _option(
        None, f"Backend of compile_blocks, as torch.compile knows it (default {DEFAULT_BACKEND})."
    )
    max_length: int = _option(1024, "Longest prompt plus completion, tokens.")
    truncation: Truncation | None = _option(
        None,
        "What happens to longer rows: drop, error, truncate_prompt, truncate_completion; None: what on_bad_rows says.",
    )
    loss_on: LossOn = _option(
        "completion",
        "Which tokens of a completion are scored: completion (all behind the prompt), last_turn (of the assistant), "
        "assistant_turns (turns of the user and of tools in between are read, not scored).",
    )
    on_bad_rows: OnBadRows = _option(
        "drop", "What happens to rows that cannot be used: drop (counted, reported) or error."
    )
    use_weights: bool = _option(True, "Let rows with a column `weight` count by it in the loss.")
    dataset_num_proc: int | None = _option(None, "Processes for tokenization; None for one.")
    dataset_cache: bool = _option(
        True, "Keep tokenised rows of files and data sets, so that the next run need not tokenise them."
    )
    dataset_cache_dir: str | None = _option(
        None, "Folder of tokenised rows; None for $DISTAL_CACHE or the user's cache folder."
    )
    disable_dropout: bool = _option(
        True,
        "Switch dropout (and routers' jitter) off in policy and reference, so that rewards carry no noise.",
    )
    reference_cache_dir: str | None = _option(
        None, "Folder of the reference-score cache; None for $DISTAL_CACHE or the user's cache folder."
    )
    reference_tokens_per_batch: int = _option(
        8192, "Tokens per forward pass, with padding, when scoring without gradient."
    )
    check_initial_policy: bool = _option(
        True, "Before training, check that policy and reference score alike (rewards 0, logistic loss log 2)."
    )
    health: bool | dict[str, Any] = _option(
        True, "Guards that watch the run, into health.jsonl: on, off, or a mapping of their thresholds."
    )

    sample_prompts: int = _option(
        0, "Prompts of the evaluation data that the policy answers at every evaluation, into samples.jsonl."
    )
    sample_new_tokens: int | None = _option(None, "sample_prompts: longest answer, tokens (default 64).")
    sample_temperature: float | None = _option(
        None, "sample_prompts: temperature of sampling (default 0: the likeliest token each time)."
    )

    # Other defaults than the parent's: one pass over the data and a step size that suits preference training.
    learning_rate: float = _option(1e-6, "Peak learning rate of the optimizer.")
    num_train_epochs: float = _option(1.0, "Passes over the training data.")
    logging_steps: float = _option(
        10, "Optimizer steps between two log entries (or a share of all, below 1)."
    )
    report_to: None | str | list[str] = _option(
        "tensorboard", "Where metrics go: tensorboard, wandb, none, ..."
    )
    per_device_train_batch_size: Any = _option(None, "Not used: set global_batch_size.")
    per_device_eval_batch_size: Any = _option(None, "Not used: set reference_tokens_per_batch.")

    def __post_init__(self) -> None:
        self._check_ranges()
        self._refuse_unused()
        # The parent computes with these; the batch of a device follows from the global one below.
        self.per_device_train_batch_size = self.per_device_eval_batch_size = 1
        self.greater_is_better = better_is_greater(self.metric_for_best_model, self.greater_is_better)
        super().__post_init__()
        refuse_accelerator_config(self.accelerator_config)
        check_sampling(self)
        if self.global_batch_size < self.world_size:
            raise ConfigError(
                f"global_batch_size: {self.global_batch_size} cannot be shared by {self.world_size} processes; "
                f"set at least {self.world_size}"
            )
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.world_size:
            raise ConfigError(
                f"the launcher started {launched} processes, but transformers sees {self.world_size}, so that each "
                "would train a model of its own. On machines without GPUs set use_cpu (--use-cpu); with GPUs start "
                "at most one process for each."
            )
        if self.n_gpu > 1:
            raise ConfigError(
                f"one process sees {self.n_gpu} GPUs, which would mean DataParallel. Start one process per GPU "
                f"(torchrun --nproc-per-node {self.n_gpu} ... or accelerate launch), or set CUDA_VISIBLE_DEVICES=0"
            )
        self.per_device_train_batch_size = math.ceil(self.global_batch_size / self.world_size)

    def build_objective(self) -> Objective:
        """The objective with the options that were set; an option that it does not use is a ConfigError."""
        given = {name: getattr(self, name) for name in _OBJECTIVE_OPTIONS}
        try:
            return get_objective(
                self.objective, **{name: value for name, value in given.items() if value is not None}
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from error

    @property
    def micro_batch_limit(self) -> MicroBatchLimit:
        """What one forward pass with gradient may hold."""
        if self.micro_batch_size is not None:
            return MicroBatchLimit(units=self.micro_batch_size)
        return MicroBatchLimit(tokens=self.tokens_per_micro_batch or DEFAULT_TOKENS_PER_MICRO_BATCH)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type of mixed precision, for policy and reference alike; None without."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else None

    @property
    def row_cache_dir(self) -> Path | None:
        """Where tokenised rows are kept; None where they are not."""
        if not self.dataset_cache:
            return None
        return default_cache_dir() if self.dataset_cache_dir is None else Path(self.dataset_cache_dir)

    @property
    def health_thresholds(self) -> HealthThresholds | None:
        """Thresholds of the guards; None where they are off."""
        return HealthThresholds.from_option(self.health)

    def _refuse_unused(self) -> None:
        refuse_options(self)
        # A copy of a config (dataclasses.replace) brings the values that the original computed; those are no demand.
        share = math.ceil(self.global_batch_size / int(os.environ.get("WORLD_SIZE", "1")))
        per_device = {
            "per_device_train_batch_size": (share, "global_batch_size"),
            "per_device_eval_batch_size": (1, "reference_tokens_per_batch"),
        }
        for name, (computed, instead) in per_device.items():
            if getattr(self, name) not in (None, computed):
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} is not used: the batch must not depend on the number of "
                    f"devices. Set {instead}."
                )

    def _check_ranges(self) -> None:
        if self.micro_batch_size is not None and self.tokens_per_micro_batch is not None:
            raise ConfigError(
                "micro_batch_size and tokens_per_micro_batch exclude each other; set one of them"
            )
        check_numbers(self)
        check_choices(self)
        if self.dataset_cache_dir is not None and not self.dataset_cache:
            raise ConfigError("dataset_cache_dir has no effect with dataset_cache: false; leave it out")
        if self.kl_baseline == "mismatched":
            raise ConfigError(
                "kl_baseline: 'mismatched' needs rewards of completions under other prompts, and training scores none; "
                "set batch or none"
            )
        check_compilation(self)
        self.health_thresholds  # noqa: B018 - building them checks them
        self._check_memory()
        self._check_order_statistics(self.build_objective())

    def _check_order_statistics(self, objective: Objective) -> None:
        if self.order_statistics == "batch":
            for name in ("stream_half_life", "stream_capacity"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} has no effect without order_statistics: stream; leave it out")
            return
        unused = {"strategy": "auto", "memory_budget_gib": None, "deferred_dtype": None}
        for name, default in unused.items():
            if getattr(self, name) != default:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} has no effect with order_statistics: stream, where every step "
                    "takes one pass; leave it out"
                )
        try:
            check_streamable(objective)
        except ValueError as error:
            raise ConfigError(f"order_statistics: stream: {error}") from error
        if self.stream_half_life is None:
            self.stream_half_life = DEFAULT_STREAM_HALF_LIFE
        if self.stream_capacity is None:
            self.stream_capacity = DEFAULT_STREAM_CAPACITY
        half_life: Any = self.stream_half_life
        if (
            isinstance(half_life, bool)
            or not isinstance(half_life, int | float)
            or not 0 < half_life < math.inf
        ):
            raise ConfigError(f"stream_half_life: expected a positive number of steps, got {half_life!r}")

    def _check_memory(self) -> None:
        budget, dtype = self.memory_budget_gib, self.deferred_dtype
        if budget is not None and (isinstance(budget, bool) or not 0 <= budget < math.inf):
            raise ConfigError(f"memory_budget_gib: expected a number of GiB of at least 0, got {budget!r}")
        if budget is not None and self.strategy in ("single", "recompute"):
            raise ConfigError(
                f"memory_budget_gib has no effect with strategy: {self.strategy}, which keeps nothing; leave it out, "
                "or use strategy: auto, retain or deferred"
            )
        if dtype is not None and dtype not in _DEFERRED_DTYPES:
            raise ConfigError(
                f"deferred_dtype: {dtype!r} is unknown{nearest(dtype, tuple(_DEFERRED_DTYPES))}"
            )
        if dtype is not None and self.strategy not in ("auto", "deferred"):
            raise ConfigError(f"deferred_dtype has no effect with strategy: {self.strategy}; leave it out")

    @property
    def memory_budget(self) -> int | None:
        """`memory_budget_gib` in bytes."""
        return None if self.memory_budget_gib is None else int(self.memory_budget_gib * GIB)

    @property
    def unit_gradient_dtype(self) -> torch.dtype | None:
        """`deferred_dtype` as torch knows it."""
        return None if self.deferred_dtype is None else _DEFERRED_DTYPES[self.deferred_dtype]


OWN_FIELDS = tuple(f.name for f in fields(AlignmentConfig) if f.name in AlignmentConfig.__annotations__)
"""Names of the fields that are Distal's own or have another default than the parent's."""
