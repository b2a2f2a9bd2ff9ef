"""Identity of a model's weights, so that a cached score can never be taken for another model's."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from distal.scoring.adapters import adapter_settings
from distal.scoring.logprobs import unwrap
from distal.scoring.partitioned import whole
from distal.scoring.quantization import scales

__all__ = ["weights_fingerprint"]

# Where PEFT puts a layer inside a wrapper, its own name gets these inserted.
_WRAPPER_NAMES = ("base_model.model.", "base_layer.", "original_module.")


def weights_fingerprint(model: nn.Module, *, with_adapters: bool = True) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, and over the configurations of model and adapters.

    Where weights are partitioned (ZeRO stage 3) every rank must call this.

    Args:
        model: any model, wrapped or not.
        with_adapters: False leaves PEFT adapters out and gives a base model wrapped by PEFT the fingerprint of the
            bare base model, so that both share their cached scores. True takes their weights, their settings (equal
            weights with another `lora_alpha` are another function), and which of them are active.

    Returns:
        64 hexadecimal digits.
    """
    inner = unwrap(model)
    adapters = {} if with_adapters else _adapter_tensors(inner)
    digest = hashlib.sha256(_config_bytes(inner))
    if with_adapters:
        digest.update(_adapter_bytes(inner))
    named = {**dict(inner.named_parameters()), **dict(inner.named_buffers()), **scales(inner)}
    entries = {
        _plain_name(name) if not with_adapters else name: t
        for name, t in named.items()
        if name not in adapters
    }
    for name in sorted(entries):
        with whole(entries[name]) as weight:
            tensor = weight.detach()
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    prefixes = ("lora_", "lokr_", "loha_", "ia3_", "oft_", "boft_", "vera_", "randlora_")
    return {
        name: tensor
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if "modules_to_save." in name or any(part.startswith(prefixes) for part in name.split("."))
    }


def _plain_name(name: str) -> str:
    for inserted in _WRAPPER_NAMES:
        name = name.replace(inserted, "")
    return name


def _config_bytes(model: nn.Module) -> bytes:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return b""
    # What names a folder or a version is no part of the function that the model computes.
    skipped = ("_name_or_path", "transformers_version", "use_cache", "torch_dtype", "dtype", "architectures")
    kept = {key: value for key, value in config.to_dict().items() if key not in skipped}
    return json.dumps(kept, sort_keys=True, default=str).encode()


def _adapter_bytes(model: nn.Module) -> bytes:
    """Nothing for a model without adapters: its fingerprint is that of its weights and configuration."""
    settings = adapter_settings(model)
    if not settings:
        return b""
    kept = {
        "settings": settings,
        "active": _active(model),
        "off": any(getattr(module, "disable_adapters", False) is True for module in model.modules()),
    }
    return json.dumps(kept, sort_keys=True).encode()


def _active(model: Any) -> list[str]:
    """Names of the adapters that compute; models of PEFT and of transformers tell them each in their own way."""
    active = getattr(model, "active_adapters", ())
    found: Any = active() if callable(active) else active
    return list(found)


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.contiguous().cpu().flatten()
    return flat.view(torch.uint8).numpy() if flat.numel() else b""
