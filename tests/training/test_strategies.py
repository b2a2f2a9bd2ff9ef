"""What each strategy costs, keeps and refuses; that all are exact stands in test_contract.py."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from distal.errors import ConfigError, NonFiniteError
from distal.objectives import get_objective
from distal.scoring import score_rows, weighted_score
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.memory import graph_bytes
from distal.training.strategies.unit_gradients import UnitGradients, adapter_matrices
from tests.training.oracle import OBJECTIVES, assert_same, engine_step, gradients, plain_autograd

ONE = MicroBatchLimit(units=1)


def with_lora(model, **options):
    settings: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(**(settings | options)), autocast_adapter_dtype=False)


@pytest.fixture
def passes(monkeypatch):
    """Counts rows that pass through the model: without gradient, with gradient."""
    counted = {"without": 0, "with": 0}

    def counting(model, rows, layout):
        counted["with" if torch.is_grad_enabled() else "without"] += len(rows)
        return score_rows(model, rows, layout)

    def counting_weighted(model, rows, weights, layout):
        counted["with"] += len(rows)
        return weighted_score(model, rows, weights, layout)

    monkeypatch.setattr("distal.training.strategies.base.score_rows", counting)
    monkeypatch.setattr("distal.training.strategies.base.weighted_score", counting_weighted)
    return counted


# ------------------------------------------------------------------------------------------- gradients of units


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(("dtype", "masked"), [(None, False), (torch.bfloat16, False), (None, True)])
def test_each_unit_has_the_gradient_of_its_own_backward_pass(make_llama, make_rows, width, dtype, masked):
    model, rows = with_lora(make_llama(), target_modules=["q_proj", "lm_head"]), make_rows(4)
    if masked:  # every other token of a completion, from the first on
        rows = [
            dataclasses.replace(row, completion_mask=[k % 2 == 0 for k in range(row.completion_length)])
            for row in rows
        ]
    units = UnitGradients(adapter_matrices(model), 8, dtype)
    with units.record(rows, width):
        live = score_rows(model, rows)
        live.sum().backward()
    assert all(p.grad is None for p in model.parameters()), "nothing may reach .grad while recording"
    n_units = len(rows) // width
    assert units.used == n_units
    for unit in range(n_units):
        model.zero_grad()
        score_rows(model, rows[unit * width : (unit + 1) * width]).sum().backward()
        expected = gradients(model)
        model.zero_grad()
        units.used = n_units
        units.combine(torch.nn.functional.one_hot(torch.tensor(unit), n_units).float())
        scale = max(g.abs().max().item() for g in expected.values())
        for name, gradient in gradients(model).items():
            tolerance = (1e-5 if dtype is None else 2**-8) * scale
            assert (gradient - expected[name]).abs().max().item() <= tolerance, name


def test_the_buffer_takes_what_was_declared(make_llama, make_rows):
    model = with_lora(make_llama())
    matrices = adapter_matrices(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert UnitGradients.bytes_per_unit(matrices, None) == 4 * trained
    assert UnitGradients.bytes_per_unit(matrices, torch.bfloat16) == 2 * trained
    buffer = UnitGradients(matrices, 5, torch.bfloat16).buffer
    assert buffer.numel() * buffer.element_size() == 5 * 2 * trained


def test_layers_work_as_before_when_recording_ends(make_llama, make_rows):
    model, rows = with_lora(make_llama()), make_rows(2)
    before = score_rows(model, rows)
    units = UnitGradients(adapter_matrices(model), 4)
    with units.record(rows, 1):
        assert torch.equal(score_rows(model, rows), before)
    assert all("forward" not in vars(m) for m in adapter_matrices(model))
    with pytest.raises(ValueError, match="4 units cannot take 10"), units.record(make_rows(3), 1):
        pass


REFUSED = {
    "DoRA": ({"use_dora": True}, "lora_A"),
    "an adapter on embeddings": ({"target_modules": ["embed_tokens"]}, "lora_embedding_A"),
    "a whole module": ({"modules_to_save": ["lm_head"]}, "lm_head"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_deferred_refuses_what_it_cannot_keep_by_unit_and_auto_does_without(make_llama, make_rows, what):
    options, named = REFUSED[what]
    model, rows, objective = with_lora(make_llama(), **options), make_rows(4), get_objective("aot", beta=0.1)
    with pytest.raises(ConfigError, match=rf"strategy: deferred: .*{named}.*Use strategy: auto"):
        engine_step(model, rows, objective, True, ONE, strategy="deferred")
    engine = WholeBatchEngine(objective, "paired", ONE, memory_budget=0)
    engine.step(model, rows)
    assert engine.choice.startswith("recompute: ")


def test_deferred_refuses_full_fine_tuning(make_llama, make_rows):
    with pytest.raises(ConfigError, match="no LoRA|is trained"):
        engine_step(make_llama(), make_rows(2), get_objective("aot"), True, ONE, strategy="deferred")


@pytest.mark.parametrize("strategy", ["retain", "deferred"])
def test_sharded_weights_are_refused(make_llama, make_rows, strategy):
    with pytest.raises(ConfigError, match=f"{strategy} does not work with sharded"):
        engine_step(
            with_lora(make_llama()),
            make_rows(2),
            get_objective("aot"),
            True,
            ONE,
            strategy=strategy,
            sharded=True,
        )


# ----------------------------------------------------------------------------------------------- rows and passes


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("recompute", (12, 12)), ("retain", (0, 12)), ("deferred", (0, 12))],
)
def test_passes_of_each_strategy(make_llama, make_rows, passes, strategy, expected):
    engine = WholeBatchEngine(get_objective("aot", beta=0.1), "paired", ONE, strategy=strategy)
    model, rows = with_lora(make_llama()), make_rows(6)
    engine.step(model, rows)  # measures, if need be
    passes.update({"without": 0, "with": 0})
    engine.step(model, rows)
    assert (passes["without"], passes["with"]) == expected


def largest_graph(model, rows, n_units):
    """Bytes of the graph of the micro-batch that comes first: the pairs with the longest rows."""
    pairs = sorted(
        (rows[i : i + 2] for i in range(0, len(rows), 2)),
        key=lambda pair: -max(len(row.input_ids) for row in pair),
    )
    longest = [row for pair in pairs[:n_units] for row in pair]
    score_rows(model, longest)  # the first pass tries the model's head
    return graph_bytes(model, lambda: score_rows(model, longest))[1]


def test_what_does_not_fit_is_recomputed(make_llama, make_rows, passes):
    model, rows, objective = with_lora(make_llama()), make_rows(6), get_objective("aot", beta=0.1)
    per_pair = UnitGradients.bytes_per_unit(adapter_matrices(model), None)
    budget = 2 * per_pair + largest_graph(model, rows, 1)
    engine = WholeBatchEngine(objective, "paired", ONE, strategy="deferred", memory_budget=budget)
    for _ in range(2):
        passes.update({"without": 0, "with": 0})
        engine.step(model, rows)
    assert (passes["without"], passes["with"]) == (8, 12)
    # Two bytes less, and one unit less has room beside the graph.
    engine = WholeBatchEngine(objective, "paired", ONE, strategy="deferred", memory_budget=budget - 2)
    assert engine.kept_bytes(model, rows) == per_pair
    passes.update({"without": 0, "with": 0})
    engine_step(model, rows, objective, True, ONE, strategy="retain", memory_budget=0)
    assert (passes["without"], passes["with"]) == (10, 12), (
        "one graph is always there, as in any forward pass"
    )


def test_rows_without_a_coefficient_have_no_second_pass(make_llama, make_rows, passes):
    """Hinge of sorted gaps: rows whose gap is satisfied, set by hand, are left out."""
    model, rows = make_llama(), make_rows(4)
    scores = score_rows(model, rows).tolist()
    rewards = [9.0, 0.3, 8.0, 0.2, -1.0, 0.1, -2.0, 0.0]  # chosen and rejected in turn
    rows = [
        dataclasses.replace(row, reference_score=score - reward)
        for row, score, reward in zip(rows, scores, rewards, strict=True)
    ]
    objective = get_objective("aot_unpaired", cost="hinge", margin=0.0)
    for strategy in ("recompute", "retain"):
        passes.update({"without": 0, "with": 0})
        options: dict[str, Any] = {"memory_budget": 0} if strategy == "retain" else {}
        output = WholeBatchEngine(objective, "paired", ONE, strategy=strategy, **options).step(model, rows)
        active = int((output.coefficients != 0).sum())
        assert active == 4  # sorted, -2 < -1 < 8 < 9 against 0 < 0.1 < 0.2 < 0.3: two on either side
        if strategy == "recompute":
            assert passes["with"] == active
        model.zero_grad()


@pytest.mark.parametrize(
    ("name", "paired"), [("aot", True), ("aot_unpaired", True), ("aot_unpaired", False), ("kto", False)]
)
def test_loss_scaling_suits_every_strategy(make_llama, make_rows, name, paired):
    """A scale at which coefficients of 1 would overflow in float16, and those of the objective do not."""
    model, rows, objective = with_lora(make_llama()), make_rows(9, paired=paired), OBJECTIVES[name]()
    plain = engine_step(model, rows, objective, paired, ONE, strategy="recompute")
    options: dict[str, Any] = {
        "autocast_dtype": torch.float16,
        "backward": lambda loss: (loss * 65536).backward(),
    }
    for strategy in ("recompute", "deferred"):
        loss, scaled = engine_step(model, rows, objective, paired, ONE, strategy=strategy, **options)
        found = loss, {key: gradient / 65536 for key, gradient in scaled.items()}
        assert_same(found, plain, 0.02, strategy)  # ten times what eleven bits keep, through two layers


# --------------------------------------------------------------------------------------------------------- choice


def test_auto_decides_by_what_fits_and_says_why(make_llama, make_rows, caplog):
    model, rows, objective = with_lora(make_llama()), make_rows(8), get_objective("aot", beta=0.1)
    graph = largest_graph(model, rows, 1)
    adapters = 8 * UnitGradients.bytes_per_unit(adapter_matrices(model), None)
    assert adapters < graph
    cases = [
        (100 * graph, "retain"),
        (adapters + graph, "deferred"),
        # Unit gradients would not leave room for the graph that they come from: one that is kept saves more.
        (graph, "retain"),
        (adapters, "recompute"),
        (0, "recompute"),
    ]
    for budget, chosen in cases:
        engine = WholeBatchEngine(objective, "paired", ONE, memory_budget=budget)
        with caplog.at_level(logging.INFO, "distal"):
            engine.step(model, rows)
        assert engine.choice.startswith(f"{chosen}: graphs of all micro-batches take ")
        assert engine.choice in caplog.text
    whole = WholeBatchEngine(objective, "paired", MicroBatchLimit(units=8))
    whole.step(model, rows)
    assert whole.choice == "single: one pass is exact here"


def test_measuring_leaves_the_random_numbers_alone(make_llama, make_rows):
    model, rows = make_llama(attention_dropout=0.5).train(), make_rows(4)
    ends = []
    for strategy in ("auto", "retain"):
        torch.manual_seed(5)
        ends.append(engine_step(model, rows, get_objective("aot"), True, ONE, strategy=strategy))
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])


def test_graph_bytes_of_a_graph_known_by_hand():
    """A linear layer saves its input, tanh its output; the weight does not count."""
    layer, x = torch.nn.Linear(8, 16), torch.randn(4, 8)
    result, size = graph_bytes(layer, lambda: torch.tanh(layer(x)).sum())
    assert size == 4 * (4 * 8 + 4 * 16)
    result.backward()
    assert layer.weight.grad is not None


# --------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("strategy", ["recompute", "retain", "deferred"])
def test_after_a_step_that_failed_the_next_is_exact(make_llama, make_rows, strategy):
    model, rows, objective = with_lora(make_llama()), make_rows(4), get_objective("aot", beta=0.1)
    expected = engine_step(model, rows, objective, True, ONE, strategy="recompute")
    bad = [dataclasses.replace(rows[0], reference_score=float("nan")), *rows[1:]]
    engine = WholeBatchEngine(objective, "paired", ONE, strategy=strategy)
    with pytest.raises(NonFiniteError, match="row 0"):
        engine.step(model, bad)
    model.zero_grad()
    loss = engine.step(model, rows).loss
    assert loss == expected[0]
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("strategy", ["retain", "recompute"])
def test_masked_rows_have_one_gradient_in_every_strategy(make_llama, make_rows, strategy):
    """`sft` per token counts the tokens that are scored, and no others."""
    rows = [
        dataclasses.replace(row, completion_mask=[k % 3 == 0 for k in range(row.completion_length)])
        for row in make_rows(3)
    ]
    objective = get_objective(
        "mix", parts=[{"objective": "aot"}, {"objective": "sft", "weight": 0.1, "per_token": True}]
    )
    model = make_llama()
    expected = plain_autograd(model, rows, objective, True)
    assert_same(engine_step(model, rows, objective, True, ONE, strategy=strategy), expected, 1e-5)
