"""Log-probabilities of the head: every way of computing them against autograd over whole logits, and against TRL."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    PreTrainedConfig,
)

from distal.errors import ModelError
from distal.scoring import score_rows, weighted_score
from distal.scoring.head import (
    IDENTITY,
    LogitTransform,
    head_log_probs,
    head_of,
    plain_head,
    tiles,
    weighted_sum,
)
from distal.scoring.head.tiles import add_wide_product
from tests.scoring.architectures import SMALL, one_by_one

N, H, V = 7, 5, 11
TRANSFORMS = {
    "identity": IDENTITY,
    "scale": LogitTransform(scale=0.3),
    "cap": LogitTransform(cap=1.5),
    "scale and cap": LogitTransform(scale=2.0, cap=1.5),
}


def operands(
    dtype: torch.dtype = torch.float64, *, bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """States, matrix, bias and targets; logits of a few nats, one token all but certain."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(N, H, generator=draw), torch.randn(V, H, generator=draw)
    targets = torch.randint(V, (N,), generator=draw)
    hidden[0] = 8 * weight[targets[0]]
    shift = torch.randn(V, generator=draw) if bias else None
    return hidden.to(dtype), weight.to(dtype), None if shift is None else shift.to(dtype), targets


def by_definition(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, known: LogitTransform
) -> Tensor:
    """Log-softmax over whole logits, written out."""
    z = hidden @ weight.t() * known.scale if bias is None else (hidden @ weight.t() + bias) * known.scale
    logits = z if known.cap is None else known.cap * torch.tanh(z / known.cap)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("tile", [1, 3, 100])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("known", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("trained", ["frozen", "kept", "recomputed", "weighted"])
def test_values_and_gradients_equal_whole_logits(known, bias, tile, trained):
    hidden, weight, shift, targets = operands(bias=bias)
    coefficients = torch.linspace(-2, 1, N, dtype=torch.float64)
    leaves = [hidden, *([] if trained == "frozen" else [t for t in (weight, shift) if t is not None])]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = by_definition(hidden, weight, shift, targets, known)
    wanted = torch.autograd.grad((expected * coefficients).sum() * 3, leaves)

    if trained == "weighted":
        total = weighted_sum(hidden, weight, shift, targets, coefficients, transform=known, tile=tile)
        torch.testing.assert_close(total, (expected * coefficients).sum(), rtol=1e-12, atol=1e-12)
    else:
        found = head_log_probs(
            hidden, weight, shift, targets, transform=known, tile=tile, keep_logits=trained == "kept"
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        total = (found * coefficients).sum()
    for gradient, right in zip(torch.autograd.grad(total * 3, leaves), wanted, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("known", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("way", ["frozen", "recomputed", "weighted"])
def test_gradients_pass_gradcheck(known, way):
    hidden, weight, shift, targets = operands()
    hidden[0] /= 8  # finite differences need curvature
    coefficients = torch.linspace(-2, 1, N, dtype=torch.float64)
    leaves = [
        t.requires_grad_(way != "frozen" or t is hidden) for t in (hidden, weight, shift) if t is not None
    ]

    def compute(*tensors: Tensor) -> Tensor:
        h, w, b = (*tensors, *leaves[len(tensors) :])
        if way == "weighted":
            return weighted_sum(h, w, b, targets, coefficients, transform=known, tile=3)
        return head_log_probs(h, w, b, targets, transform=known, tile=3, keep_logits=False)

    assert torch.autograd.gradcheck(compute, [t for t in leaves if t.requires_grad])


@pytest.mark.parametrize("known", [IDENTITY, TRANSFORMS["scale and cap"]], ids=["identity", "scale and cap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_agree_with_trl(known, dtype):
    """The same rows through TRL's chunked log-probabilities, with chunks smaller than the vocabulary."""
    chunked: Any = pytest.importorskip("trl.kernels.chunked_logprob").ChunkedLogProbFunction
    # TRL adds a bias to products that are rounded already, which is another rounding in bfloat16.
    tensors, targets = operands(dtype, bias=dtype == torch.float32)[:3], operands()[3]
    mine = [t.clone().requires_grad_() for t in tensors if t is not None]
    theirs = [t.clone().requires_grad_() for t in tensors if t is not None]
    bias = theirs[2] if len(theirs) > 2 else None
    expected = chunked.apply(*theirs[:2], bias, targets, 1.0, 4, known.cap, known.scale, ())[0]
    expected.sum().backward()
    bias = mine[2] if len(mine) > 2 else None
    found = head_log_probs(mine[0], mine[1], bias, targets, transform=known, tile=3, keep_logits=False)
    found.sum().backward()
    # In bfloat16 both round the logits alike; the gradients pass through bfloat16 once more.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    loose: Any = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 5e-2}
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **loose)


def test_log_probs_of_narrow_operands_are_float32():
    """Summing up a vocabulary in bfloat16 would be wrong by far more than this."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 16, generator=draw).bfloat16()
    weight = torch.randn(3000, 16, generator=draw).bfloat16()
    targets = torch.arange(20)
    found = head_log_probs(hidden.requires_grad_(), weight, None, targets)
    logits = (hidden @ weight.t()).double()  # rounded to bfloat16, as on any CPU
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), logits.log_softmax(-1)[targets, targets], rtol=1e-5, atol=1e-5)


def test_a_frozen_head_keeps_no_logits_and_multiplies_twice(monkeypatch):
    """What the stored gradient is for: count matrix products with the vocabulary, and what the graph holds."""
    hidden, weight, _, targets = operands(bias=False)
    saved: list[int] = []
    products = Products()
    with (
        products,
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t),
    ):
        value = head_log_probs(hidden.requires_grad_(), weight, None, targets).sum()
        value.backward()
    assert products.count == 2
    assert sum(saved) == N * H


@pytest.mark.parametrize(("way", "expected"), [("kept", 3), ("recomputed", 4), ("weighted", 3)])
def test_matrix_products_of_a_trained_head(way, expected):
    hidden, weight, _, targets = operands(bias=False)
    hidden.requires_grad_()
    weight.requires_grad_()
    products = Products()
    with products:
        if way == "weighted":
            weighted_sum(hidden, weight, None, targets, torch.ones(N)).backward()
        else:
            head_log_probs(hidden, weight, None, targets, keep_logits=way == "kept").sum().backward()
    assert products.count == expected


@pytest.mark.parametrize(("dtype", "adds"), [(torch.bfloat16, True), (torch.float16, False)])
def test_a_total_of_another_type_is_added_to_by_every_version(dtype, adds, monkeypatch):
    """By stand-ins for what PyTorch has on CUDA: some versions want the total in the type of the operands."""

    def mm(a, b, *, out_dtype):
        return a.to(out_dtype) @ b.to(out_dtype)

    def addmm(total, a, b, *, out_dtype, out):
        if not adds and total.dtype != b.dtype:
            raise RuntimeError("self and mat2 must have the same dtype")
        return out.copy_(total + mm(a, b, out_dtype=out_dtype))

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    monkeypatch.setattr(tiles, "PRODUCT_BYTES", 3 * 4 * H)  # three rows at a time
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(V, N, generator=draw).to(dtype), torch.randn(N, H, generator=draw).to(dtype)
    total = torch.randn(V, H, generator=draw)
    expected = total.double() + a.double() @ b.double()
    found = add_wide_product(total, a, b)
    assert found.dtype == torch.float32
    assert found is total
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------------------------------- models

TRANSFORMING: dict[str, tuple[PreTrainedConfig, LogitTransform]] = {
    "gemma2": (
        Gemma2Config(**SMALL, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=2.0),
        LogitTransform(cap=2.0),
    ),
    "gemma3": (
        Gemma3TextConfig(**SMALL, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=30.0),
        LogitTransform(cap=30.0),
    ),
    "granite": (GraniteConfig(**SMALL, logits_scaling=3.0), LogitTransform(scale=1 / 3)),
    "cohere": (CohereConfig(**SMALL, logit_scale=0.0625), LogitTransform(scale=0.0625)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TRANSFORMING)
def test_what_models_do_to_their_logits_is_found(name, dtype):
    config, expected = TRANSFORMING[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    probe = torch.tensor([1, 5, 9])
    assert plain_head(model, head_of(model), probe) == expected
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert plain_head(adapted, head_of(adapted), probe) == expected


@pytest.mark.parametrize("name", TRANSFORMING)
def test_models_with_caps_and_scales_score_by_the_definition(name, make_rows):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(TRANSFORMING[name][0], dtype=torch.float32).eval()
    rows = make_rows(3)
    torch.testing.assert_close(
        score_rows(model, rows).double(), one_by_one(model, rows), rtol=1e-5, atol=1e-4
    )


class Odd(nn.Module):
    """A model whose logits pass through something that no configuration names."""

    def __init__(self, model: Any, change: Any) -> None:
        super().__init__()
        self.inner, self.change = model, change
        self.config = model.config

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.get_output_embeddings()

    def forward(self, **kwargs: Any) -> Any:
        output = self.inner(**kwargs)
        output.logits = self.change(output.logits)
        return output


@pytest.mark.parametrize(
    "change",
    [
        lambda z: 200 * torch.tanh(z / 200),  # bites at large logits only
        lambda z: z * 0.999,
        lambda z: torch.where(torch.arange(z.shape[-1]) == 7, -50.0, z),
        lambda z: z + torch.linspace(0, 0.1, z.shape[-1]),
    ],
    ids=["cap", "scale", "a token forbidden", "bias"],
)
def test_unknown_changes_to_the_logits_keep_the_models_own_head(change, make_llama, make_rows, caplog):
    model, rows = Odd(make_llama(), change).eval(), make_rows(3)
    with caplog.at_level(logging.WARNING, "distal"):
        scores = score_rows(model, rows)
        score_rows(model, rows)
    torch.testing.assert_close(scores.double(), one_by_one(model, rows), rtol=1e-5, atol=1e-4)
    assert len([r for r in caplog.records if "own head" in r.message]) == 1


def test_a_head_that_is_not_one_plain_matrix_is_left_to_the_model(make_llama, make_rows):
    hooked = make_llama()
    hooked.lm_head.register_forward_hook(lambda module, args, output: output * 0.5)
    replaced = make_llama()
    replaced.lm_head.forward = lambda x: nn.functional.linear(x, replaced.lm_head.weight) * 0.5
    rows = make_rows(3)
    for model in (hooked, replaced):
        torch.testing.assert_close(
            score_rows(model, rows).double(), one_by_one(model, rows), rtol=1e-5, atol=1e-4
        )


def test_the_examination_leaves_modes_random_numbers_and_hooks_alone(make_llama, make_rows):
    model = make_llama(attention_dropout=0.5).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    plain_head(model, model.lm_head, torch.tensor([1, 2, 3]))
    assert torch.equal(before, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes
    assert not model.lm_head._forward_pre_hooks


def test_tensor_parallel_vocabularies_are_refused(make_llama, make_rows):
    model = make_llama()
    model._tp_size = 2
    with pytest.raises(ModelError, match="tensor-parallel"):
        score_rows(model, make_rows(1))


@pytest.mark.parametrize(
    "kind", ["full", "frozen head", "tied", "LoRA", "LoRA on the head", "whole head saved"]
)
def test_weighted_score_has_the_gradient_of_the_weighted_scores(kind, make_llama, make_rows):
    model = trained_as(kind, make_llama)
    twin = copy.deepcopy(model)
    rows = make_rows(3)
    weights = torch.linspace(-1, 2, len(rows), dtype=torch.float64)
    expected = (one_by_one(twin, rows) * weights).sum()
    expected.backward()
    found = weighted_score(model, rows, weights)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(
                p.grad, q.grad, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def trained_as(kind: str, make_llama: Any) -> Any:
    """A float64 model trained in one of the usual ways."""
    from peft import LoraConfig, get_peft_model

    model = make_llama(dtype=torch.float64, tie_word_embeddings=kind == "tied").eval()
    if kind == "frozen head":
        model.lm_head.requires_grad_(False)
    if "LoRA" in kind or "saved" in kind:
        torch.manual_seed(1)
        targets = ["q_proj", "lm_head"] if kind == "LoRA on the head" else ["q_proj"]
        saved = ["lm_head"] if kind == "whole head saved" else None
        config = LoraConfig(r=2, target_modules=targets, modules_to_save=saved, init_lora_weights=False)
        model = get_peft_model(model, config).eval()
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_multiplies_in_its_type(dtype, make_llama, make_rows):
    """As the model's own head does; float64 models stay as they are."""
    model, rows = make_llama(dtype=dtype).eval(), make_rows(3)
    with torch.autocast("cpu", torch.bfloat16):
        mine = score_rows(model, rows)
        expected = one_by_one(model, rows)
    torch.testing.assert_close(mine.double(), expected, rtol=1e-3, atol=5e-2)
    assert mine.dtype == dtype
    mine.sum().backward()
    assert model.lm_head.weight.grad.dtype == dtype


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_nothing_is_read_back_from_the_device(trained):
    """Each such read would make the host wait for the device."""
    hidden, weight, shift, targets = operands()
    hidden.requires_grad_()
    weight.requires_grad_(trained)
    reads = Reads()
    with reads:
        for keep in (True, False):
            head_log_probs(hidden, weight, shift, targets, tile=3, keep_logits=keep).sum().backward()
        weighted_sum(hidden, weight, shift, targets, torch.ones(N, dtype=torch.float64), tile=3).backward()
    assert reads.count == 0
    with reads:
        bool(hidden.sum() > 0)
    assert reads.count == 1  # the test can see them


class Reads(TorchDispatchMode):
    """Counts values of tensors that are asked for by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))
