"""Where the work is done: no sample leaves its device for the hard sort, and a GPU answers as the CPU does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from distal.objectives import SequenceScores, get_objective
from distal.transport import (
    HingeCost,
    LogisticCost,
    dual_potentials,
    hard_sort,
    quantile_function,
    soft_sort,
    transport_cost,
    transport_plan,
)
from tests.transport.oracles import normal

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    "function",
    [hard_sort, lambda x: transport_cost(x, x + 1, LogisticCost(0.1))],
    ids=["hard_sort", "transport_cost"],
)
def test_hard_sort_stays_on_the_device(function: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch):
    # Tensors that claim to be on a GPU: joining them with one on the host, or asking for a value, is an error.
    # The one number that does come back says whether all values are finite.
    monkeypatch.setattr("distal.transport._checks._all_finite", lambda x: True)
    with FakeTensorMode():
        assert function(torch.empty(100, device="cuda")).device.type == "cuda"


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hard_sort": lambda u, v: hard_sort(u),
    "l2": lambda u, v: soft_sort(u, 0.3),
    "entropic": lambda u, v: soft_sort(u, 0.3, "entropic"),
    "quantiles": lambda u, v: quantile_function(u, [0.1, 0.5]),
    "cost": lambda u, v: transport_cost(u, v, LogisticCost(0.1)),
    "unequal": lambda u, v: transport_cost(u, v[:700], HingeCost(0.5)),
    "weighted": lambda u, v: transport_cost(u, v, HingeCost(), u_weights=v.abs().detach()),
}


@on_a_gpu
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_gpu_answers_as_the_cpu_does(call: Callable[[Tensor, Tensor], Tensor]):
    found: list[tuple[Tensor, Tensor]] = []
    for device in ("cpu", "cuda"):
        u, v = (normal(1000, seed=seed, scale=20).to(device) for seed in (1, 2))
        value = call(u.requires_grad_(), v)
        assert value.device.type == device
        found.append((value.detach().cpu(), torch.autograd.grad(value.sum(), u)[0].cpu()))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@on_a_gpu
def test_plan_potentials_and_objectives_on_a_gpu():
    u, v = normal(50, seed=1), normal(70, seed=2)
    for one, two in zip(transport_plan(u, v), transport_plan(u.cuda(), v.cuda()), strict=True):
        torch.testing.assert_close(two.cpu(), one)
    for one, two in zip(
        dual_potentials(u, v, HingeCost()), dual_potentials(u.cuda(), v.cuda(), HingeCost()), strict=True
    ):
        torch.testing.assert_close(two.cpu(), one)
    fields = normal(4, 24, seed=3, scale=20)
    for options in ({}, {"sort": "soft"}, {"sort_group": 5}, {"quantile_weighting": [0.0, 0.3]}):
        losses = [
            get_objective("aot", **options)(SequenceScores.from_pairs(*fields.to(device))).loss.cpu()
            for device in ("cpu", "cuda")
        ]
        torch.testing.assert_close(*losses)


@on_a_gpu
def test_hard_sort_synchronises_only_to_check_its_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("distal.transport._checks._all_finite", lambda x: True)
    u, v = (normal(4096, seed=seed).cuda().requires_grad_() for seed in (1, 2))
    transport_cost(u, v, LogisticCost(0.1)).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        transport_cost(u, v, LogisticCost(0.1)).backward()
        hard_sort(u).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
