"""The invariance contract: the optimizer batch decides loss and gradient; everything else is memory and speed.

For every objective, over strategies, micro-batches, row order, padding, cached or fresh reference scores, gradient
checkpointing, dropout, mixed precision, tied weights and adapters. World sizes are in test_world_size.py (the same
comparison over processes), whole runs and interruptions in test_trainer.py and test_processes.py.

Oracle: all rows in one forward pass, plain autograd through the objective, no engine. Tolerances on the largest
entry of the gradient: 1e-10 in float64, 1e-5 in float32.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from distal.objectives import get_objective
from distal.scoring import PACKED, PrefixShared, score_rows
from tests.training.oracle import (
    LIMITS,
    OBJECTIVES,
    assert_same,
    engine_step,
    gradients,
    plain_autograd,
    room_for_half,
    sequence_scores,
)

CASES = [(name, True) for name in OBJECTIVES] + [
    ("aot_unpaired", False),
    ("aot hinge", False),
    ("kto", False),
]
# A budget that holds about half of the graphs.
STRATEGIES = {
    "auto": {},
    "auto without memory": {"memory_budget": 0},
    "recompute": {"strategy": "recompute"},
    "retain": {"strategy": "retain"},
    "retain some": {"strategy": "retain", "memory_budget": 400_000},
}
DTYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
each_dtype = pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["float64", "float32"])


def with_deferred(model, rows, objective, paired, limit, **options):
    """All strategies that an adapter can be trained by: `deferred` with room for all units, and for some."""
    part = room_for_half(model, rows, objective, paired, limit, **options)
    return STRATEGIES | {
        "deferred": {"strategy": "deferred"},
        "deferred some": {"strategy": "deferred", "memory_budget": part},
    }


@pytest.fixture
def make_neox():
    """Tiny GPT-NeoX models: unlike Llama's, their layers compute in the type of their weights throughout.

    `deferred` backpropagates with coefficient 1 and multiplies afterwards. That is the same to the last bits of the
    narrowest type in the backward pass, and in Llama's norms this is float32 even where the weights are float64.
    """

    def make(*, dtype=torch.float64, **config):
        settings: dict[str, Any] = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "initializer_range": 0.1,
            "use_cache": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        torch.manual_seed(0)
        model: Any = GPTNeoXForCausalLM(GPTNeoXConfig(**(settings | config)))
        return model.to(dtype)

    return make


def with_lora(model, **options):
    """A LoRA adapter whose B is not zero, as that of a run under way."""
    settings: dict[str, Any] = {
        "r": 2,
        "target_modules": ["query_key_value", "dense_4h_to_h"],
        "init_lora_weights": False,
    }
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(**(settings | options)), autocast_adapter_dtype=False)


@each_dtype
@pytest.mark.parametrize(("name", "paired"), CASES)
def test_full_fine_tuning(make_llama, make_rows, name, paired, dtype, tolerance):
    model, rows, objective = make_llama(dtype=dtype), make_rows(8, paired=paired), OBJECTIVES[name]()
    expected = plain_autograd(model, rows, objective, paired)
    for limit_name, limit in LIMITS.items():
        for strategy_name, options in STRATEGIES.items():
            got = engine_step(model, rows, objective, paired, limit, **options)
            assert_same(got, expected, tolerance, f"{limit_name}, {strategy_name}")


@each_dtype
@pytest.mark.parametrize(("name", "paired"), CASES)
def test_lora(make_neox, make_rows, name, paired, dtype, tolerance):
    model = with_lora(make_neox(dtype=dtype))
    rows, objective = make_rows(8, paired=paired), OBJECTIVES[name]()
    expected = plain_autograd(model, rows, objective, paired)
    assert all("lora_" in parameter for parameter in expected[1])
    for limit_name, limit in LIMITS.items():
        strategies = with_deferred(model, rows, objective, paired, limit)
        for strategy_name, options in strategies.items():
            got = engine_step(model, rows, objective, paired, limit, **options)
            assert_same(got, expected, tolerance, f"{limit_name}, {strategy_name}")


# Sort groups are drawn by position in the batch: there another order is another partition.
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "aot in groups"])
def test_order_of_the_pairs(make_llama, make_rows, name):
    model, rows, objective = make_llama(dtype=torch.float64), make_rows(8), OBJECTIVES[name]()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [rows[2 * i + side] for i in order for side in range(2)]
    got = engine_step(model, shuffled, objective, True, LIMITS["3 units"])
    assert_same(got, plain_autograd(model, rows, objective, True), 1e-10)


@pytest.mark.parametrize("name", ["aot", "kto"])
def test_padding(make_llama, make_rows, name):
    """Every row in a forward pass of its own, hence without any padding, against all padded to the longest."""
    model, rows, objective = make_llama(dtype=torch.float64), make_rows(6), OBJECTIVES[name]()
    model.zero_grad()
    policy = torch.cat([score_rows(model, [row]) for row in rows])
    loss = objective(sequence_scores(rows, policy, True)).loss
    loss.backward()
    expected = loss.detach(), gradients(model)
    for limit in LIMITS.values():
        assert_same(engine_step(model, rows, objective, True, limit), expected, 1e-10)


@pytest.mark.parametrize("paired", [True, False])
def test_reference_scores_from_the_cache_are_those_computed_at_once(make_llama, make_rows, tmp_path, paired):
    from distal.scoring import FrozenModel, reference_scores
    from tests.training.rows import ListOfRows

    reference, model = make_llama(dtype=torch.float64, seed=1), make_llama(dtype=torch.float64)
    rows = [dataclasses.replace(row, reference_score=float("nan")) for row in make_rows(6, paired=paired)]
    with torch.no_grad():
        online = score_rows(reference, rows).tolist()
    data = ListOfRows(rows, paired)
    ends = []
    for _ in range(2):  # the second reads what the first wrote
        scores = reference_scores(FrozenModel(reference), data, cache_dir=tmp_path, tokens_per_batch=40)
        ends.append(
            [dataclasses.replace(row, reference_score=float(s)) for row, s in zip(rows, scores, strict=True)]
        )
    at_once = [dataclasses.replace(row, reference_score=s) for row, s in zip(rows, online, strict=True)]
    objective = OBJECTIVES["aot" if paired else "aot_unpaired"]()
    expected = plain_autograd(model, at_once, objective, paired)
    for cached in ends:
        assert_same(engine_step(model, cached, objective, paired, LIMITS["1 unit"]), expected, 1e-10)


# Re-entrant checkpointing says so whenever it runs without gradient, as it must in a first pass.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("strategy", ["recompute", "retain", "deferred"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(make_neox, make_rows, strategy, reentrant):
    model = with_lora(make_neox()).train()
    rows, objective = make_rows(6), OBJECTIVES["aot"]()
    expected = plain_autograd(model, rows, objective, True)
    model.enable_input_require_grads()  # re-entrant checkpointing finds its graph through the inputs
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for limit in LIMITS.values():
        assert_same(engine_step(model, rows, objective, True, limit, strategy=strategy), expected, 1e-10)


@pytest.mark.parametrize("strategy", ["recompute", "retain"])
def test_tied_embeddings_and_frozen_parts(make_llama, make_rows, strategy):
    model = make_llama(dtype=torch.float64, tie_word_embeddings=True).train()
    model.model.layers[0].requires_grad_(False)
    rows, objective = make_rows(6), OBJECTIVES["aot"]()
    expected = plain_autograd(model, rows, objective, True)
    assert not any("layers.0." in name for name in expected[1])
    assert "model.embed_tokens.weight" in expected[1]
    for limit in LIMITS.values():
        assert_same(engine_step(model, rows, objective, True, limit, strategy=strategy), expected, 1e-10)


ADAPTERS = {
    "on the head": {"target_modules": ["query_key_value", "embed_out"]},
    "on every linear layer": {"target_modules": "all-linear"},
    "with a bias": {"lora_bias": True},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3},
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(("name", "paired"), [("aot", True), ("aot_unpaired", False)])
def test_kinds_of_lora(make_neox, make_rows, kind, name, paired):
    model = with_lora(make_neox(), **ADAPTERS[kind])
    rows, objective = make_rows(7, paired=paired), OBJECTIVES[name]()
    expected = plain_autograd(model, rows, objective, paired)
    for limit in LIMITS.values():
        for strategy in ("deferred", "retain", "recompute"):
            assert_same(
                engine_step(model, rows, objective, paired, limit, strategy=strategy), expected, 1e-10
            )


def test_several_adapters_at_once(make_neox, make_rows):
    model = with_lora(make_neox())
    model.add_adapter(
        "second", LoraConfig(r=3, target_modules=["query_key_value", "dense"], init_lora_weights=False)
    )
    cast(Any, model.base_model).set_adapter(["default", "second"])
    model.double()
    rows, objective = make_rows(5), OBJECTIVES["aot"]()
    expected = plain_autograd(model, rows, objective, True)
    assert {name.split(".")[-2] for name in expected[1]} == {"default", "second"}
    for strategy in ("deferred", "retain", "recompute"):
        got = engine_step(model, rows, objective, True, LIMITS["3 units"], strategy=strategy)
        assert_same(got, expected, 1e-10, strategy)


@pytest.mark.parametrize("strategy", ["recompute", "retain", "deferred"])
@pytest.mark.parametrize("limit", ["1 unit", "3 units"])
def test_dropout(make_neox, make_rows, strategy, limit):
    """One draw of the random numbers, in the order of the micro-batches; `recompute` must draw them again."""
    model = with_lora(make_neox(attention_dropout=0.3), lora_dropout=0.5).train()
    rows, objective = make_rows(5), OBJECTIVES["aot"]()
    groups = LIMITS[limit].cut("paired", rows)

    torch.manual_seed(3)
    model.zero_grad()
    parts = torch.cat([score_rows(model, [rows[i] for i in group]) for group in groups])
    order = torch.tensor([i for group in groups for i in group])
    loss = objective(sequence_scores(rows, torch.empty_like(parts).index_put((order,), parts), True)).loss
    loss.backward()
    expected = loss.detach(), gradients(model)

    part = room_for_half(model, rows, objective, True, LIMITS[limit]) if strategy == "deferred" else 60_000
    for options in ({}, {"memory_budget": part}):  # all of it at once, and a part
        torch.manual_seed(3)
        got = engine_step(
            model, rows, objective, True, LIMITS[limit], strategy=strategy, replay_rng=True, **options
        )
        assert_same(got, expected, 1e-10)


def test_without_replay_dropout_would_not_be_exact(make_llama, make_rows):
    """The control of the test above."""
    model = make_llama(dtype=torch.float64, attention_dropout=0.5).train()
    rows, objective = make_rows(4), OBJECTIVES["aot"]()
    grads = []
    for replay in (True, False):
        torch.manual_seed(3)
        step = engine_step(
            model, rows, objective, True, LIMITS["1 unit"], strategy="recompute", replay_rng=replay
        )
        grads.append(step[1])
    assert max((grads[0][name] - grads[1][name]).abs().max() for name in grads[0]) > 1e-6


@pytest.mark.parametrize("strategy", ["recompute", "retain", "deferred"])
def test_mixed_precision(make_neox, make_rows, strategy):
    """bf16 autocast over a float32 adapter: as far from the whole batch in one pass as rounding is, no farther."""
    model = with_lora(make_neox(dtype=torch.float32))
    rows, objective = make_rows(6), OBJECTIVES["aot"]()
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain_autograd(model, rows, objective, True)
    exact = plain_autograd(model, rows, objective, True)
    got = engine_step(
        model, rows, objective, True, LIMITS["3 units"], strategy=strategy, autocast_dtype=torch.bfloat16
    )
    assert_same(got, expected, 2e-2)
    off = {n: (got[1][n] - exact[1][n]).abs().max().item() for n in exact[1]}
    assert max(off.values()) > 1e-6, "it must have been computed in bf16"


def test_zero_coefficients_everywhere_still_give_a_gradient_of_zero(make_neox, make_rows):
    """Satisfied hinges: an optimizer with momentum must see zeros, as after plain autograd, and not nothing."""
    model = with_lora(make_neox())
    rows = [
        dataclasses.replace(row, reference_score=-500.0 if row.desirable else 500.0) for row in make_rows(5)
    ]
    objective = get_objective("aot_unpaired", cost="hinge", margin=0.0)
    loss, expected = plain_autograd(model, rows, objective, True)
    assert loss == 0
    assert all(not g.any() for g in expected.values())
    for strategy in ("recompute", "retain", "deferred"):
        got_loss, got = engine_step(model, rows, objective, True, LIMITS["3 units"], strategy=strategy)
        assert got_loss == 0
        assert got.keys() == expected.keys()
        assert all(not g.any() for g in got.values())


def with_equal_prompts(rows, paired):
    """The rows, where every third unit has the prompt of the first: prompts are shared within and across units."""
    width = 2 if paired else 1
    prompt = list(rows[0].input_ids[: rows[0].prompt_length])
    return [
        row
        if (i // width) % 3
        else dataclasses.replace(
            row,
            input_ids=prompt + list(row.input_ids[row.prompt_length :]),
            prompt_length=len(prompt),
        )
        for i, row in enumerate(rows)
    ]


@pytest.mark.parametrize("layout", [PACKED, PrefixShared(least=1)], ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    ("name", "paired"), [("aot", True), ("aot_unpaired", True), ("kto", False), ("dpo", True)]
)
def test_layouts(make_neox, make_rows, layout, name, paired):
    """Units of `deferred` are pairs for aot, and single rows, which must not share a token, for aot_unpaired."""
    model = with_lora(make_neox())
    rows, objective = with_equal_prompts(make_rows(8, paired=paired), paired), OBJECTIVES[name]()
    expected = plain_autograd(model, rows, objective, paired)
    for limit_name in ("1 unit", "60 tokens", "all"):
        limit = LIMITS[limit_name]
        strategies = with_deferred(model, rows, objective, paired, limit, layout=layout)
        for strategy_name, options in strategies.items():
            got = engine_step(model, rows, objective, paired, limit, layout=layout, **options)
            assert_same(got, expected, 1e-10, f"{limit_name}, {strategy_name}")


@pytest.mark.parametrize("layout", [PACKED, PrefixShared(least=1)], ids=lambda layout: layout.name)
def test_layouts_where_some_rows_have_no_gradient(make_neox, make_rows, layout):
    """Rows whose hinge is satisfied are left out of the second pass, which breaks pairs up."""
    model = with_lora(make_neox())
    rows, objective = make_rows(8), OBJECTIVES["aot hinge"]()
    rows = [dataclasses.replace(row, reference_score=-60.0 * (i % 3)) for i, row in enumerate(rows)]
    expected = plain_autograd(model, rows, objective, True)
    for limit in LIMITS.values():
        got = engine_step(model, rows, objective, True, limit, layout=layout, strategy="recompute")
        assert_same(got, expected, 1e-10)


@pytest.mark.parametrize("strategy", ["recompute", "retain", "deferred"])
def test_layouts_with_a_head_under_lora(make_neox, make_rows, strategy):
    model = with_lora(make_neox(), target_modules="all-linear").train()
    rows, objective = with_equal_prompts(make_rows(6), True), OBJECTIVES["aot"]()
    expected = plain_autograd(model, rows, objective, True)
    for limit in LIMITS.values():
        options: dict[str, Any] = {"layout": PrefixShared(least=1), "strategy": strategy}
        assert_same(engine_step(model, rows, objective, True, limit, **options), expected, 1e-10)
