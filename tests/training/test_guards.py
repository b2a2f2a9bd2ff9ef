"""Guards that stop a run before the optimizer step."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from distal.errors import NonFiniteError, ReferenceMismatchError
from distal.scoring import score_rows
from distal.training.guards import (
    GradientNormCheck,
    blame,
    check_initial_policy,
    multiplies_in_tf32,
    refuse_non_finite_gradient,
    rows_with_bad_gradient,
)
from tests.training.rows import ListOfRows


@pytest.mark.parametrize("norm", [None, 0.0, 3.5, torch.tensor(1e30)])
def test_finite_and_unknown_norms_pass(norm):
    refuse_non_finite_gradient(norm)


@pytest.mark.parametrize("norm", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_norm_that_is_not_finite_is_refused(norm):
    with pytest.raises(NonFiniteError, match=r"overflowed in row 3\. The weights were not updated"):
        refuse_non_finite_gradient(norm, culprits=lambda: " in row 3")


@pytest.mark.parametrize(("scale", "refused"), [(65536.0, False), (1.0, False), (0.5, True)])
def test_loss_scaling_may_overflow_until_the_gradient_does_so_unscaled(scale, refused):
    if refused:
        with pytest.raises(NonFiniteError):
            refuse_non_finite_gradient(math.inf, loss_scale=scale)
    else:
        refuse_non_finite_gradient(math.inf, loss_scale=scale)


@pytest.mark.parametrize(
    "groups", [[[0, 1, 2, 3, 4, 5]], [[5, 4], [3, 2], [1, 0], []], [[i] for i in range(6)]]
)
def test_exactly_the_rows_to_blame_are_found(make_llama, make_rows, groups):
    model, rows = make_llama(), make_rows(3)
    bad = {1, 4}

    def poison(gradient):
        return torch.where(mask, math.nan, gradient)

    embed = model.model.embed_tokens
    token = torch.zeros(64, dtype=torch.bool)
    for i in bad:
        token[rows[i].input_ids[-2]] = True
    expected = [row for row in rows if token[row.input_ids].any()]

    def hook(module, inputs, output):
        nonlocal mask
        mask = token[inputs[0]].unsqueeze(-1)
        output.register_hook(poison)

    mask = torch.zeros(1, dtype=torch.bool)
    embed.register_forward_hook(hook)
    found = rows_with_bad_gradient(model, rows, torch.ones(6), groups)
    assert sorted(found, key=rows.index) == expected
    assert len(expected) > 0
    assert all(p.grad is None for p in model.parameters())


def test_a_coefficient_of_zero_times_infinity_is_to_blame_too(make_llama, make_rows):
    """0 * inf is NaN in the sum that the step makes, so that such a row must be named."""
    model, rows = make_llama(), make_rows(1)
    model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    assert rows_with_bad_gradient(model, rows, torch.zeros(2), [[0, 1]]) == rows


def test_what_is_frozen_is_not_asked(make_llama, make_rows):
    model, rows = make_llama(), make_rows(2)
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert rows_with_bad_gradient(model, rows, torch.ones(4), [[0, 1, 2, 3]]) == []


def test_many_rows_are_named_in_part(make_rows):
    rows = make_rows(30)
    assert blame(rows, rows) == f" in row {', '.join(map(str, range(20)))} and 10 more (60 of 60 rows)"
    assert blame(None, rows[:4]) == " (rows 0, 1)"


def test_older_versions_are_given_the_norm(make_llama, make_rows):
    """Before 5.3 transformers has no place where the norm is known; the callback computes it."""
    model, seen = make_llama(), []
    check = GradientNormCheck(seen.append)
    none = SimpleNamespace()
    check.on_pre_optimizer_step(none, none, none, model=model)  # pyright: ignore[reportArgumentType]
    assert seen == [None]
    score_rows(model, make_rows(2)).sum().backward()
    check.on_pre_optimizer_step(none, none, none, model=model)  # pyright: ignore[reportArgumentType]
    expected = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
    assert seen[1].item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def products():
    """The precision of float32 products on GPUs, put back afterwards."""
    before = torch.backends.cuda.matmul.fp32_precision
    yield torch.backends.cuda.matmul
    torch.backends.cuda.matmul.fp32_precision = before


def test_products_in_tf32_are_those_of_float32_on_a_gpu_where_they_are_allowed(products):
    gpu, host = torch.device("cuda"), torch.device("cpu")
    for precision, expected in (("ieee", False), ("tf32", True)):
        products.fp32_precision = precision
        assert multiplies_in_tf32(gpu, torch.float32) == expected
        assert not multiplies_in_tf32(gpu, torch.bfloat16)
        assert not multiplies_in_tf32(host, torch.float32)


def test_the_check_of_the_start_allows_for_tf32(make_llama, make_rows, monkeypatch):
    """Rewards of 5e-4 nats per root token: 50 times float32's noise, 5 times that of TF32."""
    model, rows = make_llama(), make_rows(4)
    with torch.no_grad():
        scores = score_rows(model, rows).tolist()
    off = [
        dataclasses.replace(row, reference_score=score + 5e-4 * math.sqrt(row.scored_length))
        for row, score in zip(rows, scores, strict=True)
    ]
    data = ListOfRows(off, paired=True)
    with pytest.raises(ReferenceMismatchError):
        check_initial_policy(model, data, None)
    monkeypatch.setattr("distal.training.guards.multiplies_in_tf32", lambda device, dtype: True)
    check_initial_policy(model, data, None)
