"""How launched processes exchange gradients, and which launches are refused; DeepSpeed is played by a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, StateDictType

from distal.errors import ConfigError
from distal.objectives import get_objective
from distal.scoring import AdapterSnapshot, FrozenModel, InitialPolicy
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.exchange import gradient_exchange
from distal.training.launch import (
    check_launch,
    check_reference,
    checkpoint_layout,
    is_prepared,
    prepared_later,
)

RUN: Any = SimpleNamespace(bf16=False, fp16=False, max_grad_norm=1.0)
"""What the run itself says, as far as a launcher could contradict it."""


def accelerator(kind: str, **state: Any) -> Any:
    return SimpleNamespace(
        distributed_type=SimpleNamespace(name=kind, value=kind),
        is_fsdp2=state.pop("fsdp2", False),
        mixed_precision=state.pop("precision", "no"),
        num_processes=2,
        parallelism_config=state.pop("parallelism", None),
        deepspeed_engine_wrapped=state.pop("engine", None),
        backward=torch.Tensor.backward,
        state=SimpleNamespace(**state),
    )


class DeepSpeed(torch.nn.Module):
    """The contract of DeepSpeed's engine: the boundary is told before a forward pass, and `step` updates at it."""

    def __init__(self, module, stage):
        super().__init__()
        self.module, self.stage = module, stage
        self.boundary, self.passes, self.steps = None, [], 0

    def zero_optimization_stage(self):
        return self.stage

    def set_gradient_accumulation_boundary(self, is_boundary):
        self.boundary = is_boundary

    def forward(self, **inputs):
        if torch.is_grad_enabled():
            self.passes.append(self.boundary)
        return self.module(**inputs)

    def backward(self, loss, scale_wrt_gas=True):
        assert not scale_wrt_gas, "passes must be summed, not averaged"
        assert self.boundary == self.passes[-1], "the boundary must be the same forward and backward"
        loss.backward()

    def step(self):
        assert self.passes[-1] is True
        self.steps += 1

    def was_step_applied(self):
        return all(bool(p.grad.isfinite().all()) for p in self.module.parameters())


@pytest.mark.parametrize("objective", ["aot", "dpo"])
@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeed_is_told_which_pass_is_the_last_and_updates_once(make_llama, make_rows, objective, stage):
    def gradients(model, engine):
        model.zero_grad()
        engine.step(model, make_rows(7))
        return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}

    plain, inner = make_llama(dtype=torch.float64), make_llama(dtype=torch.float64)
    wrapped = DeepSpeed(inner, stage)
    exchange = gradient_exchange(accelerator("DEEPSPEED", engine=SimpleNamespace(engine=wrapped)))
    assert exchange.sharded == (stage >= 2)
    built, limit = get_objective(objective), MicroBatchLimit(units=2)
    expected = gradients(plain, WholeBatchEngine(built, "paired", limit))
    driven = WholeBatchEngine(
        built,
        "paired",
        limit,
        strategy="recompute" if objective == "aot" else "auto",
        sharded=exchange.sharded,
        backward=exchange.backward,
        no_sync=exchange.no_sync,
    )
    for step in (1, 2):
        wrapped.passes.clear()
        found = gradients(wrapped, driven)
        assert wrapped.passes == [False, False, False, True]
        assert wrapped.steps == step - 1, "nothing may be updated before the loss was seen"
        assert exchange.finish()
        assert wrapped.steps == step
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)  # pyright: ignore
    inner.lm_head.weight.grad[0, 0] = float("nan")
    assert not exchange.finish(), "a step that DeepSpeed left out must be noticed"


def test_other_launches_leave_the_update_to_the_trainer():
    for kind, fsdp2 in (("NO", False), ("MULTI_GPU", False), ("FSDP", True)):
        exchange = gradient_exchange(accelerator(kind, fsdp2=fsdp2))
        assert exchange.sharded == fsdp2
        assert exchange.finish()


GATHER = "stage3_gather_16bit_weights_on_model_save"


def fsdp(version=2, offload: object = None, efficient=False):
    plugin = SimpleNamespace(
        cpu_offload=offload or OffloadPolicy(),
        cpu_ram_efficient_loading=efficient,
        fsdp_version=version,
        state_dict_type=StateDictType.SHARDED_STATE_DICT,
    )
    return accelerator("FSDP", fsdp2=version == 2, fsdp_plugin=plugin)


def deepspeed(stage=3, **config: Any):
    config = {"gradient_clipping": 1.0} | config
    return accelerator(
        "DEEPSPEED", deepspeed_plugin=SimpleNamespace(deepspeed_config=config, zero_stage=stage)
    )


@pytest.mark.parametrize(
    "launched",
    [
        accelerator("NO"),
        accelerator("MULTI_CPU"),
        accelerator("MULTI_GPU", parallelism=SimpleNamespace(tp_size=1, cp_size=1, dp_replicate_size=2)),
        fsdp(),
        deepspeed(),
        deepspeed(gradient_accumulation_steps="auto", tensor_parallel={"autotp_size": 1}),
        deepspeed(zero_optimization={"stage": 3, GATHER: True, "offload_param": {"device": "none"}}),
        deepspeed(zero_optimization={"stage": 2}, fp16={"enabled": False}, gradient_clipping="auto"),
    ],
)
def test_data_parallel_launches_are_accepted(launched):
    check_launch(launched, RUN)


@pytest.mark.parametrize(
    ("launched", "message"),
    [
        (fsdp(version=1), "version 1 is not supported"),
        (fsdp(offload=CPUOffloadPolicy()), "cpu_offload"),
        (accelerator("MEGATRON_LM"), "MEGATRON_LM, which Distal does not support"),
        (
            accelerator(
                "FSDP",
                fsdp2=True,
                parallelism=SimpleNamespace(cp_size=2),
                fsdp_plugin=SimpleNamespace(cpu_offload=None),
            ),
            "cp_size=2 makes several processes share",
        ),
        (deepspeed(tensor_parallel={"autotp_size": 4}), "autotp_size=4"),
        (deepspeed(sequence_parallel_size=2), "sequence_parallel_size=2"),
        (deepspeed(gradient_accumulation_steps=8), 'Set it to 1 or "auto"'),
        (
            deepspeed(gradient_clipping=0.5),
            "gradient_clipping=0.5 is what would act, and not max_grad_norm=1.0",
        ),
        (deepspeed(gradient_clipping=0.0), "gradient_clipping=0.0 is what would act"),
        (deepspeed(fp16={"enabled": True}), "Use bf16"),
        (deepspeed(zero_optimization={"stage": 3}), GATHER),
        (deepspeed(zero_optimization={"stage": 3, "offload_param": {"device": "cpu"}}), "offload_param"),
        (accelerator("MULTI_GPU", precision="bf16"), "the launcher says bf16, the run no.* Set bf16: true"),
        (accelerator("MULTI_GPU", precision="fp8"), "the launcher says fp8, the run no.* Set it to no"),
    ],
)
def test_launches_that_would_train_something_else_are_refused(launched, message):
    with pytest.raises(ConfigError, match=message):
        check_launch(launched, RUN)


def test_precision_of_the_run_is_that_of_the_launcher():
    check_launch(accelerator("MULTI_GPU", precision="bf16"), SimpleNamespace(bf16=True, fp16=False))  # pyright: ignore
    with pytest.raises(ConfigError, match="the launcher says no, the run fp16"):
        check_launch(accelerator("NO"), SimpleNamespace(bf16=False, fp16=True))  # pyright: ignore


def test_checkpoints_are_told_apart_where_their_files_differ():
    plain = [checkpoint_layout(accelerator(kind)) for kind in ("NO", "MULTI_GPU", "MULTI_CPU")]
    assert plain == [{}, {}, {}], "any number of processes reads what one wrote"
    layouts = [
        *plain[:1],
        checkpoint_layout(fsdp()),
        checkpoint_layout(deepspeed(stage=2)),
        checkpoint_layout(deepspeed()),
    ]
    assert len({str(layout) for layout in layouts}) == 4
    more = deepspeed()
    more.num_processes = 3
    assert checkpoint_layout(more) != checkpoint_layout(deepspeed())


def test_references_that_would_not_be_whole_are_refused(make_llama):
    frozen, own = FrozenModel(make_llama()), InitialPolicy(make_llama())
    for launched in (fsdp(efficient=True), deepspeed(stage=3)):
        check_reference(launched, own)
        with pytest.raises(ConfigError, match=r"cpu_ram_efficient_loading|ZeRO stage 3"):
            check_reference(launched, frozen)
    for launched in (fsdp(), deepspeed(stage=2), accelerator("MULTI_GPU")):
        check_reference(launched, frozen)
    with pytest.raises(ConfigError, match="merge an adapter"):
        check_reference(deepspeed(stage=3), AdapterSnapshot(make_llama()))


def test_a_model_is_prepared_later_under_fsdp_and_deepspeed_alone(make_llama):
    assert not prepared_later(accelerator("MULTI_GPU"))
    assert prepared_later(fsdp())
    assert prepared_later(deepspeed())
    assert not is_prepared(deepspeed(), make_llama())
    assert is_prepared(accelerator("DEEPSPEED", engine=object()), make_llama())
    assert not is_prepared(fsdp(), make_llama())
