"""How the processes of a run were launched: what Distal can do with it, and what it refuses.

Everything here reads what accelerate made of the launcher's settings; nothing is changed.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from distal.errors import ConfigError
from distal.scoring import AdapterSnapshot, FrozenModel, Reference

__all__ = ["check_launch", "check_reference", "is_prepared", "launched_with", "prepared_later"]


def launched_with(accelerator: Any, *names: str) -> bool:
    """Whether accelerate's kind of distribution is one of these."""
    return accelerator.distributed_type.name in names


def prepared_later(accelerator: Any) -> bool:
    """Whether the weights come to their devices only when the Trainer prepares the model (FSDP2, DeepSpeed)."""
    return launched_with(accelerator, "FSDP", "DEEPSPEED")


def is_prepared(accelerator: Any, model: nn.Module) -> bool:
    """Whether a model that is `prepared_later` is ready for forward passes on its devices."""
    if launched_with(accelerator, "DEEPSPEED"):
        return accelerator.deepspeed_engine_wrapped is not None
    return hasattr(model, "set_requires_gradient_sync")


def check_launch(accelerator: Any) -> None:
    """Refuse ways of launching under which the gradient would not be that of the whole batch, or that are untested.

    Raises:
        ConfigError: names the setting and what to set instead.
    """
    if launched_with(accelerator, "FSDP"):
        _check_fsdp(accelerator)
    elif launched_with(accelerator, "DEEPSPEED"):
        _check_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config)
    elif launched_with(accelerator, "MEGATRON_LM", "XLA"):
        raise ConfigError(
            f"the launcher asks for {accelerator.distributed_type.value}, which Distal does not support: it cuts and "
            "averages batches in ways of its own. Use plain data parallelism (torchrun), FSDP2 or DeepSpeed."
        )
    parallelism = getattr(accelerator, "parallelism_config", None)
    for name in ("tp_size", "cp_size", "sp_size"):
        if getattr(parallelism, name, 1) > 1:
            raise ConfigError(
                f"parallelism_config: {name}={getattr(parallelism, name)} makes several processes share one row, while "
                "Distal gives every process rows of its own. Shard with FSDP2 or DeepSpeed instead."
            )


def _check_fsdp(accelerator: Any) -> None:
    if not accelerator.is_fsdp2:
        raise ConfigError(
            "fsdp: version 1 is not supported. Set the version to 2 (the configurations in recipes/launch/ do)."
        )
    from torch.distributed.fsdp import CPUOffloadPolicy

    if isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy):
        raise ConfigError(
            "fsdp: parameters offloaded to the host (cpu_offload) are not supported. Switch it off, and lower "
            "tokens_per_micro_batch or checkpoint activations to save memory."
        )


def _check_deepspeed(config: dict[str, Any]) -> None:
    shared_rows = {
        "tensor_parallel.autotp_size": config.get("tensor_parallel", {}).get("autotp_size", 1),
        "sequence_parallel_size": config.get("sequence_parallel_size", 1),
    }
    for name, size in shared_rows.items():
        if isinstance(size, int) and size > 1:
            raise ConfigError(
                f"deepspeed: {name}={size} makes several processes share one row, while Distal gives every process "
                "rows of its own. Leave it out; ZeRO stage 3 shards the weights."
            )
    steps = config.get("gradient_accumulation_steps", 1)
    if steps not in (1, "auto"):
        raise ConfigError(
            f"deepspeed: gradient_accumulation_steps={steps} would make {steps} optimizer batches into one step. "
            'Set it to 1 or "auto"; global_batch_size and micro_batch_size say how a batch is cut.'
        )


def check_reference(accelerator: Any, reference: Reference) -> None:
    """Refuse references whose weights would not be whole, or not be there, when they are to score.

    Raises:
        ConfigError: says what to do instead.
    """
    own_weights = isinstance(reference, FrozenModel | AdapterSnapshot)
    if launched_with(accelerator, "DEEPSPEED"):
        if own_weights and accelerator.state.deepspeed_plugin.zero_stage == 3:
            raise ConfigError(
                f"deepspeed: with ZeRO stage 3 the reference cannot be {reference.description}, since DeepSpeed would "
                "not gather its weights. Use stage 2 or FSDP2; or merge an adapter into the model and start there."
            )
    elif launched_with(accelerator, "FSDP"):
        partly = accelerator.state.fsdp_plugin.cpu_ram_efficient_loading
        if isinstance(reference, FrozenModel) and partly:
            raise ConfigError(
                "fsdp: with cpu_ram_efficient_loading only the first process loads the weights of the reference model. "
                "Set it to false."
            )
