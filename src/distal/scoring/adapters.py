"""What PEFT adapters make of a model, beside their weights."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["adapter_settings"]

_PROVENANCE = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")
"""Settings that say where an adapter is from and how it was loaded, not what it computes."""


def adapter_settings(model: nn.Module) -> dict[str, Any]:
    """Settings of a model's adapters, such as the factor by which an update is scaled, by `adapter.setting`.

    Args:
        model: without wrappers for data parallelism; one without adapters has no settings.

    Returns:
        Values of JSON: enumerations by their value, sets in order, what JSON has no form for by its text.
    """
    adapters: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    return {
        f"{adapter}.{key}": _plain(value)
        for adapter, config in adapters.items()
        for key, value in config.to_dict().items()
        if key not in _PROVENANCE
    }


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(value)
