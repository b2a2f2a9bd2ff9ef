"""Options of `transformers.TrainingArguments` that have no place under the whole-batch engine."""

from __future__ import annotations

from typing import Any

from distal.errors import ConfigError

__all__ = ["refuse_accelerator_config", "refuse_options"]

_NO_PREDICTIONS = "an evaluation scores rows and keeps no predictions; leave it out"
_OWN_BATCHES = "Distal cuts optimizer batches and shares them out itself; leave it out"

# Options of the parent class that would change the objective, or do nothing, under the whole-batch engine.
_REFUSED: dict[str, tuple[Any, str]] = {
    "gradient_accumulation_steps": (
        1,
        "one optimizer step takes one batch; set global_batch_size and micro_batch_size",
    ),
    "auto_find_batch_size": (False, "memory is bounded by micro_batch_size or tokens_per_micro_batch"),
    "label_smoothing_factor": (0.0, "that smooths token labels; for preferences set label_smoothing"),
    "neftune_noise_alpha": (
        None,
        "noise would differ between policy and reference, so rewards would be noise",
    ),
    "batch_eval_metrics": (False, "the evaluation set is evaluated whole"),
    "use_liger_kernel": (False, "it replaces the head through which scores are computed"),
    "prediction_loss_only": (False, "evaluation needs no predictions"),
    "eval_accumulation_steps": (None, _NO_PREDICTIONS),
    "eval_do_concat_batches": (True, _NO_PREDICTIONS),
    "eval_use_gather_object": (False, _NO_PREDICTIONS),
    "include_for_metrics": ([], _NO_PREDICTIONS),
    "label_names": (None, "what is preferred stands in the columns of the data; leave it out"),
    "length_column_name": ("length", "lengths are counted from the tokens; leave it out"),
    "ignore_data_skip": (
        False,
        "a resumed run goes on with the rows that are left; finding them costs no time here",
    ),
    "train_sampling_strategy": (
        "random",
        "Distal orders optimizer batches itself, the same on any number of devices",
    ),
    "dataloader_in_order": (True, "the seed says in which order optimizer batches come; leave it out"),
}
_OF_THE_ACCELERATOR: dict[str, tuple[Any, str]] = {
    "split_batches": (False, _OWN_BATCHES),
    "dispatch_batches": (None, _OWN_BATCHES),
    "even_batches": (True, _OWN_BATCHES),
    "use_seedable_sampler": (True, _OWN_BATCHES),
    "non_blocking": (False, "batches are rows, which are laid out on their way to the device; leave it out"),
    "gradient_accumulation_kwargs": (
        None,
        "one optimizer step takes one batch; set global_batch_size and micro_batch_size",
    ),
}
_OF_WORKERS = (
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context",
)
_IN_THE_BACKWARD_PASS = ("lomo", "adalomo")
_LAYERWISE = "_layerwise"


def refuse_options(args: object) -> None:
    """Refuse settings that would change the objective or do nothing, and say what to set instead.

    Raises:
        ConfigError: naming the first of them.
    """
    _refuse(args, _REFUSED, "")
    _refuse_optimizer(getattr(args, "optim", None))
    for name in _OF_WORKERS:
        if getattr(args, name, None) and not getattr(args, "dataloader_num_workers", 0):
            raise ConfigError(f"{name} has no effect without dataloader_num_workers; leave it out")


def refuse_accelerator_config(config: object) -> None:
    """The same for `accelerator_config`, once transformers has read it.

    Raises:
        ConfigError: naming the first of them.
    """
    _refuse(config, _OF_THE_ACCELERATOR, "accelerator_config: ")


def _refuse(settings: object, table: dict[str, tuple[Any, str]], where: str) -> None:
    for name, (allowed, remedy) in table.items():
        value = getattr(settings, name, allowed)
        if value != allowed:
            raise ConfigError(f"{where}{name}: {value!r} is not supported: {remedy}")


def _refuse_optimizer(optim: object) -> None:
    """Refuse optimizers that update weights while a backward pass runs.

    An optimizer batch has several of them, and the coefficients of all were computed from the weights before the first.
    """
    name = str(getattr(optim, "value", optim))
    if not name.endswith(_LAYERWISE) and name not in _IN_THE_BACKWARD_PASS:
        return
    instead = (
        f"optim: {name.removesuffix(_LAYERWISE)}, which updates once per step"
        if name.endswith(_LAYERWISE)
        else "optim: adamw_8bit, or train an adapter (lora), to save memory"
    )
    raise ConfigError(
        f"optim: {name!r} is not supported: it updates weights in every backward pass, while an optimizer batch has "
        f"one for each micro-batch, so that what is learnt would depend on how the batch is cut. Set {instead}."
    )
