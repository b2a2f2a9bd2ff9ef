"""The strategy that a run has settled on: it goes on with it, so that free memory does not change its last bits.

Oracle: the run in one go, compared bit by bit. Free memory is what the test says.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig

from distal.errors import OutputError
from distal.objectives import get_objective
from distal.scoring import score_rows
from distal.training import MicroBatchLimit, WholeBatchEngine
from distal.training.strategies import Choice
from distal.training.strategies.choice import CHOICE_FILE
from tests.training.runs import STEPS, equal, state_of

PLENTY = 2**40
LORA: dict[str, Any] = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}
ONE = MicroBatchLimit(units=1)


@pytest.fixture
def memory(monkeypatch):
    """Sets the bytes that are free."""

    def set_to(free):
        monkeypatch.setattr("distal.training.strategies.budget.free_bytes", lambda device: free)

    return set_to


def allowing(trainer, budget):
    """Free memory that leaves a budget to a run from the start: half is used, less gradients and moments."""
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return 2 * (budget + 12 * trained)


def room_for_units(build, memory):
    """A budget that holds the adapter gradients of a batch of 8 pairs beside one graph, and no more than that."""
    memory(PLENTY)
    sized = build("sized", stop=1, strategy="deferred", **LORA)
    sized.train()
    trained = sum(p.numel() for p in sized.model.parameters() if p.requires_grad)
    settled = sized.engine.settled()
    assert settled.kept == 8 * 4 * trained + settled.graph
    assert settled.graph > 0
    return settled.kept


def strategy_of(trainer):
    return trainer.engine.choice.partition(":")[0]


def test_a_run_resumed_under_another_memory_budget_keeps_its_strategy_and_its_last_bits(
    build, memory, tmp_path
):
    budget = room_for_units(build, memory)
    scarce = allowing(build("sized", **LORA), budget)
    memory(scarce)
    whole = build("whole", **LORA)
    whole.train()
    build("cut", stop=4, **LORA).train()
    build("forgetful", stop=4, **LORA).train()
    memory(PLENTY)
    resumed = build("cut", **LORA)
    resumed.train(resume_from_checkpoint=True)
    assert [strategy_of(whole), strategy_of(resumed)] == ["deferred", "deferred"]
    assert "as before the checkpoint" in resumed.engine.choice
    assert equal(state_of(whole), state_of(resumed))
    # The same with a limit that the user sets, however generous.
    limited = build("cut", memory_budget_gib=100, **LORA)
    limited.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert equal(state_of(whole), state_of(limited))
    # The oracle can fail: a run that does not remember chooses what fits now, and ends with other bits.
    (tmp_path / "forgetful" / "checkpoint-4" / CHOICE_FILE).unlink()
    (tmp_path / "forgetful" / "checkpoint-4" / "resumption.json").unlink()
    forgetful = build("forgetful", **LORA)
    forgetful.train(resume_from_checkpoint=str(tmp_path / "forgetful" / "checkpoint-4"))
    assert strategy_of(forgetful) == "retain"
    assert not equal(state_of(whole), state_of(forgetful))


def test_what_no_longer_fits_is_chosen_anew_and_told_once(build, memory, tmp_path, caplog):
    memory(PLENTY)
    build("cut", stop=4, **LORA).train()
    saved = Choice.load(tmp_path / "cut" / "checkpoint-4")
    assert saved is not None
    assert saved.strategy == "retain"
    resumed = build("cut", memory_budget_gib=0, **LORA)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == STEPS
    assert strategy_of(resumed) == "recompute"
    told = [text for text in caplog.messages if "last bits" in text]
    assert len(told) == 1
    assert told[0].startswith("Strategy retain of the checkpoint keeps ")
    after = Choice.load(tmp_path / "cut" / f"checkpoint-{STEPS}")
    assert after is not None
    assert after.strategy == "recompute"


@pytest.mark.parametrize("strategy", ["retain", "deferred"])
def test_a_strategy_that_was_named_splits_the_batch_as_before(build, memory, strategy):
    """A budget for a part of the batch; with a hinge, recomputed rows are cut up otherwise than kept ones."""
    options = {
        **LORA,
        "strategy": strategy,
        "objective": "aot_unpaired",
        "cost": "hinge",
        "margin": 0.03,
        "beta": None,
    }
    budget = room_for_units(build, memory) if strategy == "deferred" else 300_000
    memory(allowing(build("sized", **LORA), budget))
    whole = build("whole", **options)
    whole.train()
    build("cut", stop=4, **options).train()
    memory(PLENTY)
    resumed = build("cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert equal(state_of(whole), state_of(resumed))
    generous = build("generous", **options)
    generous.train()
    assert not equal(state_of(whole), state_of(generous)), "the oracle can fail"


def test_moments_that_are_loaded_already_are_not_subtracted_again(build, memory, tmp_path):
    """Just as much memory as the run had, less what its optimizer has taken since: the strategy still fits."""
    first = build("cut", stop=4, **LORA)
    trained = sum(p.numel() for p in first.model.parameters() if p.requires_grad)
    free = allowing(first, room_for_units(build, memory))
    memory(free)
    first.train()
    assert strategy_of(first) == "deferred"
    memory(free - 2 * 8 * trained)
    resumed = build("cut", **LORA)
    resumed.train(resume_from_checkpoint=True)
    assert "as before the checkpoint" in resumed.engine.choice


# ---------------------------------------------------------------------------------------------------- the engine


def engine(earlier, *, strategy: Any = "auto", budget=PLENTY, basis=None):
    objective = get_objective("aot", beta=0.1)
    return WholeBatchEngine(
        objective, "paired", ONE, strategy=strategy, memory_budget=budget, earlier=earlier, basis=basis
    )


def choice(strategy="recompute", **options):
    given: dict[str, Any] = {"strategy": strategy, "budget": 1000, "kept": 0, **options}
    return Choice(**given)


def test_other_options_decide_anew_and_a_named_strategy_is_obeyed(make_llama, make_rows, caplog):
    caplog.set_level("INFO", "distal")
    model, rows = make_llama(), make_rows(4)
    cases = [
        (engine(choice()), "recompute"),
        (engine(choice(basis={"processes": 2}), basis={"processes": 2}), "recompute"),
        (engine(choice(basis={"processes": 2}), basis={"processes": 1}), "retain"),
        (engine(choice(), strategy="retain"), "retain"),
        (engine(None), "retain"),
    ]
    for found, expected in cases:
        found.step(model, rows)
        assert found.choice.partition(":")[0] == expected
        settled = found.settled()
        assert settled is not None
        assert settled.strategy == expected
    assert [text for text in caplog.messages if "another processes; decided anew" in text]


def test_a_choice_outlives_steps_in_which_one_pass_is_exact(make_llama, make_rows):
    found = engine(choice("retain", budget=10**9, kept=10**6))
    found.step(make_llama(), make_rows(1))
    assert found.settled() == choice("retain", budget=10**9, kept=10**6)
    assert engine(None).settled() is None


def test_a_choice_holds_what_was_kept_at_most(make_llama, make_rows):
    model = make_llama()
    found = engine(None, strategy="retain")
    kept = []
    for n in (4, 8, 2):
        found.step(model, make_rows(n))
        settled = found.settled()
        assert settled is not None
        kept.append(settled.kept)
    assert 0 < kept[0] < kept[1] == kept[2] < PLENTY
    short = engine(None, strategy="retain", budget=kept[0] // 2)
    short.step(model, make_rows(4))
    settled = short.settled()
    assert settled is not None
    assert settled.kept == settled.budget == kept[0] // 2, (
        "where it was too little, all of it says what is kept"
    )


def test_the_first_step_after_a_checkpoint_is_split_as_it_would_have_been(make_llama, make_rows, monkeypatch):
    """`retain` learns what a token's graph takes: from the second step on it keeps no graph that cannot fit."""
    without: list[int] = []

    def counting(model, rows, layout):
        if not torch.is_grad_enabled():
            without[-1] += len(rows)
        return score_rows(model, rows, layout)

    monkeypatch.setattr("distal.training.strategies.base.score_rows", counting)
    model, rows = make_llama(), make_rows(4)
    through = engine(None, strategy="retain", budget=1)
    for _ in range(2):
        without.append(0)
        through.step(model, rows)
    without.append(0)
    engine(through.settled(), strategy="retain", budget=1).step(model, rows)
    assert without == [6, 8, 8]


def test_a_choice_survives_its_file_and_a_damaged_one_is_refused(tmp_path):
    one = choice("deferred", budget=7, kept=5, per_token=1 / 3, graph=2, basis={"processes": 1})
    assert Choice.load(tmp_path) is None
    one.save(tmp_path)
    assert Choice.load(tmp_path) == one
    path = tmp_path / CHOICE_FILE
    written = json.loads(path.read_text())
    for bad in (
        "{",
        "[1]",
        json.dumps({**written, "strategy": "magic"}),
        json.dumps({**written, "kept": "a lot"}),
        json.dumps({**written, "budget": -1}),
        json.dumps({**written, "graph": -1}),
        json.dumps({**written, "more": 1}),
    ):
        path.write_text(bad)
        with pytest.raises(OutputError, match=f"{CHOICE_FILE}.*resume from another checkpoint"):
            Choice.load(tmp_path)
