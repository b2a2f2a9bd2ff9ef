"""How the processes of a run were launched: what Distal can do with it, and what it refuses.

Everything here reads what accelerate made of the launcher's settings; nothing is changed.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainingArguments

from distal.errors import ConfigError
from distal.scoring import AdapterSnapshot, FrozenModel, Reference
from distal.scoring.quantization import is_quantized

__all__ = [
    "check_launch",
    "check_models",
    "check_reference",
    "checkpoint_layout",
    "is_prepared",
    "launched_with",
    "prepared_later",
]


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


def checkpoint_layout(accelerator: Any) -> dict[str, Any]:
    """What the files of a checkpoint depend on besides the run: how weights are shared out over processes.

    Empty where every process has all of them. Under FSDP2 PyTorch cuts weights and optimizer state anew for any number
    of processes; DeepSpeed does not.
    """
    if launched_with(accelerator, "FSDP"):
        return {"sharding": f"FSDP2, {accelerator.state.fsdp_plugin.state_dict_type.name}"}
    if launched_with(accelerator, "DEEPSPEED"):
        stage = accelerator.state.deepspeed_plugin.zero_stage
        return {"sharding": f"DeepSpeed, ZeRO stage {stage}", "processes": accelerator.num_processes}
    return {}


def check_launch(accelerator: Any, args: TrainingArguments) -> None:
    """Refuse ways of launching under which the gradient would not be that of the whole batch, or that are untested.

    Args:
        accelerator: as accelerate made it of the launcher's settings and of `args`.
        args: the run's own settings, which the launcher's must not contradict.

    Raises:
        ConfigError: names the setting and what to set instead.
    """
    _check_precision(accelerator.mixed_precision, args)
    if getattr(args, "compile_blocks", False) and prepared_later(accelerator):
        raise ConfigError(
            f"compile_blocks is not supported with {accelerator.distributed_type.value}, where weights come and go "
            "while blocks run. Leave it out, or use plain data parallelism (torchrun)."
        )
    if launched_with(accelerator, "FSDP"):
        _check_fsdp(accelerator)
    elif launched_with(accelerator, "DEEPSPEED"):
        _check_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config, args.max_grad_norm)
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


def _check_precision(launched: str, args: TrainingArguments) -> None:
    """The launcher wraps the policy alone: with another precision than the run's own, the reference would differ."""
    own = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    if launched != own:
        remedy = (
            f"Set {launched}: true among the options of the run"
            if launched in ("bf16", "fp16")
            else "Set it to no"
        )
        raise ConfigError(
            f"mixed_precision: the launcher says {launched}, the run {own}, so that policy and reference would be "
            f"computed in different precisions. {remedy}, or leave mixed_precision to the run "
            "(mixed_precision: no in the file for accelerate launch)."
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


def _check_deepspeed(config: dict[str, Any], max_grad_norm: float) -> None:
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
    clipping = config.get("gradient_clipping", 0.0)
    if clipping not in (max_grad_norm, "auto"):
        raise ConfigError(
            f"deepspeed: gradient_clipping={clipping} is what would act, and not max_grad_norm={max_grad_norm}. Set "
            'gradient_clipping to "auto".'
        )
    if config.get("fp16", {}).get("enabled", False) is True:
        raise ConfigError(
            "deepspeed: fp16 is not supported, since DeepSpeed skips steps that overflow without a word. Use bf16."
        )
    _check_zero(config.get("zero_optimization", {}))


def _check_zero(zero: dict[str, Any]) -> None:
    if zero.get("offload_param", {}).get("device", "none") not in ("none", None):
        raise ConfigError(
            "deepspeed: parameters offloaded to the host (offload_param) are not supported. Switch it off, and lower "
            "tokens_per_micro_batch or checkpoint activations to save memory."
        )
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save", False):
        raise ConfigError(
            "deepspeed: with ZeRO stage 3 the result can be written as a model only if the weights are gathered. Set "
            "zero_optimization.stage3_gather_16bit_weights_on_model_save (zero3_save_16bit_model) to true."
        )


def check_models(accelerator: Any, policy: nn.Module, reference: Reference) -> None:
    """Refuse models that cannot be shared out over processes as the launcher asks.

    Raises:
        ConfigError: says what to do instead.
    """
    if is_quantized(policy) and prepared_later(accelerator):
        raise ConfigError(
            f"quantization is not supported with {accelerator.distributed_type.value}, which shares out weights that "
            "it can read. Use plain data parallelism (torchrun), or load the model without quantization."
        )
    check_reference(accelerator, reference)


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
