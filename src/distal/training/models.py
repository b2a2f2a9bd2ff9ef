"""Getting a policy ready: loading by name, adding an adapter, switching dropout off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from distal.errors import ConfigError
from distal.scoring.quantization import is_quantized

__all__ = ["add_adapter", "disable_dropout", "has_dropout", "policy_and_reference", "resolve_model"]

logger = logging.getLogger(__name__)

# PhiMoE's attribute of this name is a threshold, which decides on experts in evaluation too, so it must stay as it is.
# In training mode such a router draws its experts at random, and nothing switches that off.
_THRESHOLD = "router_jitter_noise"


def policy_and_reference(
    model: str | Path | nn.Module,
    ref_model: str | Path | nn.Module | None,
    peft_config: Any = None,
    *,
    without_dropout: bool = True,
) -> tuple[nn.Module, nn.Module | None]:
    """The policy as it is trained, with its adapter, and the reference where it is a model of its own.

    Raises:
        ConfigError: they cannot be trained as they are.
        ModelError: they cannot be loaded.
    """
    policy = resolve_model(model)
    if peft_config is not None:
        policy = add_adapter(policy, peft_config)
    _refuse_router_loss(policy)
    if is_quantized(policy) and not hasattr(policy, "peft_config"):
        raise ConfigError(
            "model: its weights are quantised, so they cannot be trained themselves. Train an adapter on them (lora, "
            "or peft_config), or load the model without quantization."
        )
    frozen = None if ref_model is None else resolve_model(ref_model)
    if without_dropout:
        for switched in (policy, frozen):
            disable_dropout(switched)
        if has_dropout(policy):
            logger.warning(
                "disable_dropout: this model draws experts at random in training mode, which cannot be switched off; "
                "rewards in training carry that noise."
            )
    return policy, frozen


def resolve_model(model: str | Path | nn.Module) -> nn.Module:
    """The model itself, or the one that a folder or hub id names."""
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance] - users' mistakes
        raise ConfigError(f"model: expected a model, a local folder or a hub id, got {type(model).__name__}")
    from distal.scoring.loading import load_model

    return load_model(str(model))


def add_adapter(model: nn.Module, peft_config: Any) -> nn.Module:
    """Wrap a model in a new PEFT adapter.

    Raises:
        ConfigError: the model carries an adapter already.
    """
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ConfigError(
            "peft_config: the model has an adapter already. Leave peft_config out to go on training that adapter "
            "(a frozen copy of it becomes the reference), or merge it first with model.merge_and_unload()."
        )
    return get_peft_model(model, peft_config)  # pyright: ignore[reportArgumentType]


def _refuse_router_loss(model: nn.Module) -> None:
    """Refuse a mixture of experts that asks for the auxiliary loss which balances its experts.

    Raises:
        ConfigError: it would be left out in silence, since it is a function of how the batch is cut up.
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0):
            raise ConfigError(
                f"model: its configuration asks for the loss that balances experts (output_router_logits: true, "
                f"router_aux_loss_coef: {config.router_aux_loss_coef}). Distal does not add it, because it depends on "
                "which rows share a forward pass. Set output_router_logits to false, in its config.json or as "
                "model.config.output_router_logits, to train on preferences alone."
            )


def disable_dropout(model: nn.Module | None) -> None:
    """Set every dropout probability of a model to 0, in layers and in attention modules, and every router's jitter."""
    for module, name in _noise(model):
        if name != _THRESHOLD:
            setattr(module, name, 0.0)


def has_dropout(model: nn.Module) -> bool:
    """Whether anything of a model is random in training mode: dropout, or noise on the way to its experts."""
    return next(_noise(model), None) is not None


def _noise(model: nn.Module | None) -> Iterator[tuple[nn.Module, str]]:
    """(module, attribute) of every positive dropout probability or width of noise."""
    for module in model.modules() if model is not None else ():
        # nn.Dropout and its kin keep the probability in p; attention modules hand theirs to a function, and
        # mixtures of experts (Mixtral, MiniMax, DBRX) multiply what their router sees by 1 plus or minus a jitter.
        names = ["p"] if isinstance(module, nn.modules.dropout._DropoutNd) else []  # pyright: ignore[reportPrivateUsage]
        names += [name for name in vars(module) if "dropout" in name or "jitter" in name]
        for name in names:
            value = getattr(module, name)
            if isinstance(value, float) and value > 0:
                yield module, name
