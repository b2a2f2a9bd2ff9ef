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

from distal.training.launch import launched_with
from distal.training.ranks import without_sync

__all__ = ["GradientExchange", "gradient_exchange"]


def _nothing() -> bool:
    """What is left to do after the last backward pass, where the Trainer steps the optimizer itself."""
    return True


@dataclass(frozen=True, kw_only=True)
class GradientExchange:
    """How backward passes are run and gradients exchanged.

    Attributes:
        sharded: parameters or gradients are shared out over the ranks, so that every pass is a collective operation.
        backward: runs the backward pass of one micro-batch.
        no_sync: given the model, the context that every micro-batch but the last runs in.
        finish: called once after the last backward pass, when loss and scores are known to be finite. False where it
            should have updated the weights and did not, because the gradient is not finite.
    """

    sharded: bool
    backward: Callable[[Tensor], None]
    no_sync: Callable[[nn.Module], AbstractContextManager[object]]
    finish: Callable[[], bool] = _nothing


def gradient_exchange(accelerator: Any) -> GradientExchange:
    """What accelerate set up, once it has prepared the model.

    Args:
        accelerator: an `accelerate.Accelerator` that `distal.training.launch.check_launch` has passed.
    """
    if launched_with(accelerator, "DEEPSPEED"):
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

    def finish() -> bool:
        engine.step()
        # A step that it leaves out need not show in the norm that it tells, which may be that of the step before.
        return engine.was_step_applied()

    engine.set_gradient_accumulation_boundary(is_boundary=True)
    partitioned = engine.zero_optimization_stage() >= 2
    return GradientExchange(sharded=partitioned, backward=backward, no_sync=no_sync, finish=finish)
