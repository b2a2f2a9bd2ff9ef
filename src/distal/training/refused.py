"""Options of `transformers.TrainingArguments` that have no place under the whole-batch engine."""

from __future__ import annotations

from typing import Any

from distal.errors import ConfigError

__all__ = ["refuse_options"]

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
    "ignore_data_skip": (
        False,
        "a resumed run goes on with the rows that are left; finding them costs no time here",
    ),
    "train_sampling_strategy": (
        "random",
        "Distal orders optimizer batches itself, the same on any number of devices",
    ),
}


def refuse_options(args: object) -> None:
    """Refuse settings that would change the objective or do nothing, and say what to set instead.

    Raises:
        ConfigError: naming the first of them.
    """
    for name, (allowed, remedy) in _REFUSED.items():
        value = getattr(args, name, allowed)
        if value != allowed:
            raise ConfigError(f"{name}: {value!r} is not supported: {remedy}")
