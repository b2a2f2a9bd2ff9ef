"""Versions and hardware, for run records and bug reports."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import distal

__all__ = ["environment", "package_versions"]

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "tokenizers", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of Distal, Python and the packages that shape a result."""
    versions = {"distal": distal.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def environment() -> dict[str, Any]:
    """Everything that a bug report should state; holds no names, paths or variables of the user."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        **package_versions(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "mps": bool(torch.backends.mps.is_available()),
    }
