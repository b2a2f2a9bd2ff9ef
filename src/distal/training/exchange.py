"""How the launched processes exchange gradients: what the engine must know of DDP, FSDP2 and DeepSpeed.

The engine runs several backward passes for one optimizer step, and only it knows which is the last. accelerate's own
`no_sync` does not serve it everywhere: under FSDP2 it keeps gradients of the whole model on every rank, which is what
sharding is there to avoid; and under DeepSpeed accelerate's `backward` updates the weights whenever it counts a
micro-batch as the last of its step, which without its own accumulation is every one of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from distal.errors import ConfigError
from distal.training.ranks import without_sync

__all__ = ["GradientExchange", "check_launch", "gradient_exchange"]


def _nothing() -> None:
    """What is left to do after the last backward pass, where the Trainer steps the optimizer itself."""


@dataclass(frozen=True, kw_only=True)
class GradientExchange:
    """How backward passes are run and gradients exchanged.

    Attributes:
        sharded: parameters or gradients are shared out over the ranks, so that every pass is a collective operation.
        backward: runs the backward pass of one micro-batch.
        no_sync: given the model, the context that every micro-batch but the last runs in.
        finish: called once after the last backward pass, when loss and scores are known to be finite.
    """

    sharded: bool
    backward: Callable[[Tensor], None]
    no_sync: Callable[[nn.Module], AbstractContextManager[object]]
    finish: Callable[[], None] = _nothing


def gradient_exchange(accelerator: Any) -> GradientExchange:
    """What accelerate set up, once it has prepared the model.

    Args:
        accelerator: an `accelerate.Accelerator` that `check_launch` has passed.
    """
    if _is(accelerator, "DEEPSPEED"):
        return _deepspeed(accelerator.deepspeed_engine_wrapped.engine)
    return GradientExchange(sharded=accelerator.is_fsdp2, backward=accelerator.backward, no_sync=without_sync)


def _deepspeed(engine: Any) -> GradientExchange:
    """Drives DeepSpeed's engine as its own documentation of gradient accumulation does.

    The boundary is told before each forward pass, and `step` (clipping, update, zeroing) is called once at the end, so
    that nothing is updated before the loss was seen. The engine averages over ranks as DDP does. Passes are summed:
    `scale_wrt_gas` would divide them by a number of accumulation steps that it does not know.
    """

    def backward(loss: Tensor) -> None:
        engine.backward(loss, scale_wrt_gas=False)

    @contextmanager
    def no_sync(_model: nn.Module) -> Generator[None]:
        engine.set_gradient_accumulation_boundary(is_boundary=False)
        try:
            yield
        finally:
            engine.set_gradient_accumulation_boundary(is_boundary=True)

    engine.set_gradient_accumulation_boundary(is_boundary=True)
    partitioned = engine.zero_optimization_stage() >= 2
    return GradientExchange(sharded=partitioned, backward=backward, no_sync=no_sync, finish=engine.step)


def check_launch(accelerator: Any) -> None:
    """Refuse ways of launching under which the gradient would not be that of the whole batch, or that are untested.

    Raises:
        ConfigError: names the setting and what to set instead.
    """
    if _is(accelerator, "FSDP"):
        _check_fsdp(accelerator)
    elif _is(accelerator, "DEEPSPEED"):
        _check_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config)
    elif _is(accelerator, "MEGATRON_LM", "XLA"):
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
            "fsdp: version 1 is not supported. Set fsdp_version: 2 (the configuration in recipes/launch/ does)."
        )
    from torch.distributed.fsdp import CPUOffloadPolicy

    if isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy):
        raise ConfigError(
            "fsdp: parameters offloaded to the host (fsdp_offload_params) are not supported. Switch it off, and lower "
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


def _is(accelerator: Any, *names: str) -> bool:
    return accelerator.distributed_type.name in names
