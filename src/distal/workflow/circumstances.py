"""What a run's options ask of this machine, checked before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from distal.errors import ConfigError
from distal.scoring.loading import is_adapter
from distal.workflow.options import AlignOptions

__all__ = ["check_circumstances"]

_LOGGERS = {
    "azure_ml": ("is_azureml_available", "azureml-sdk"),
    "clearml": ("is_clearml_available", "clearml"),
    "codecarbon": ("is_codecarbon_available", "codecarbon"),
    "comet_ml": ("is_comet_available", "comet_ml"),
    "dagshub": ("is_dagshub_available", "dagshub mlflow"),
    "dvclive": ("is_dvclive_available", "dvclive"),
    "flyte": ("is_flytekit_available", "flytekit"),
    "mlflow": ("is_mlflow_available", "mlflow"),
    "neptune": ("is_neptune_available", "neptune"),
    "swanlab": ("is_swanlab_available", "swanlab"),
    "tensorboard": ("is_tensorboard_available", "tensorboard"),
    "trackio": ("is_trackio_available", "trackio"),
    "wandb": ("is_wandb_available", "wandb"),
}
"""How transformers finds out whether a logger is there, and the packages that bring it."""


def check_circumstances(options: AlignOptions) -> None:
    """Refuses options that would have no effect, or cannot act, on this machine.

    Args:
        options: of the run.

    Raises:
        ConfigError: naming the option.
    """
    if options.model.revision is not None and Path(options.model.model).is_dir():
        raise ConfigError(
            f"revision: {options.model.revision!r} has no effect, since {options.model.model} is a local "
            "folder; leave it out."
        )
    adapted = options.lora.lora or options.model.adapter is not None
    if options.model.quantization != "none" and not adapted and not is_adapter(options.model.model):
        raise ConfigError(
            f"quantization: {options.model.quantization} weights cannot be trained themselves; add lora (--lora) to "
            "train an adapter on them, or leave quantization out."
        )
    names = options.training.report_to
    for name in [names] if isinstance(names, str) else names or []:
        _check_logger(name)


def _check_logger(name: str) -> None:
    """Refuses a logger that is unknown or not installed; the Trainer would, with a traceback and after loading."""
    from transformers.integrations import integration_utils

    known: Mapping[str, object] = integration_utils.INTEGRATION_TO_CALLBACK
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(sorted(known))}, or none"
        raise ConfigError(f"report_to: {name!r} is unknown; {hint}")
    if name not in _LOGGERS:
        return
    asked, packages = _LOGGERS[name]
    if not getattr(integration_utils, asked)():
        raise ConfigError(
            f"report_to: {name} is not installed or not set up; pip install {packages}, or choose another logger "
            "(--report-to tensorboard, --report-to none)"
        )
