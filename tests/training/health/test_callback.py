"""The guards in a run: what is written, that it costs nothing when off, and that ill runs are found ill."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import TrainerCallback

from distal.errors import ConfigError, NonFiniteError
from distal.training.health import HEALTH_FILE, HealthCallback
from distal.training.health.measures import measure
from tests.training.runs import STEPS


class Watch(TrainerCallback):
    def __init__(self, look):
        self.look = look

    def on_step_end(self, args, state, control, **kwargs):
        self.look(state.global_step)


def records(tmp_path, name="run"):
    return [json.loads(line) for line in (tmp_path / name / HEALTH_FILE).read_text().splitlines()]


def findings(tmp_path):
    return {entry["guard"]: entry for record in records(tmp_path) for entry in record.get("findings", [])}


def test_every_step_is_measured(build, tmp_path):
    trainer = build()
    trainer.train()
    found = records(tmp_path)
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    logged = [entry for entry in trainer.state.log_history if "rewards/chosen" in entry]
    for record, entry in zip(found, logged, strict=True):
        assert record["reward_chosen"] == pytest.approx(entry["rewards/chosen"], abs=1e-6)
        assert record["reward_rejected"] == pytest.approx(entry["rewards/rejected"], abs=1e-6)
    assert [record["sort_group"] for record in found] == [8, 8, 4] * 3
    assert found[0]["effective_share"] == pytest.approx(1, abs=1e-6)
    assert found[0]["surprise_ratio"] == pytest.approx(1, abs=1e-6)


def test_the_last_step_is_handed_over_whole(build, tmp_path):
    """What the callback writes is what the engine's output says, and that is of all rows of the batch."""
    trainer = build(micro_batch_size=1)
    trainer.train()
    step = trainer.last_step
    assert step is not None
    assert step.batch.n_units == 4
    expected = {"step": STEPS, **measure(step, trainer.objective, torch.float32)}
    assert records(tmp_path)[-1] == json.loads(json.dumps(expected))


def test_off_means_no_callback_and_no_file(build, tmp_path):
    trainer = build(health=False)
    assert not [c for c in trainer.callback_handler.callbacks if isinstance(c, HealthCallback)]
    trainer.train()
    assert not (tmp_path / "run" / HEALTH_FILE).exists()


def test_guards_do_not_change_what_is_learnt(build, make_llama):
    ends = []
    for name, health in (("off", False), ("probed", {"probe_every": 2, "probe_new_tokens": 3})):
        trainer = build(name, model=make_llama(attention_dropout=0.2), disable_dropout=False, health=health)
        trainer.train()
        ends.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_an_ill_run_is_found_ill_and_told_once(build, tmp_path, caplog):
    """A policy that is worn down by force: noise on all weights at each step makes every text less likely."""
    trainer = build(max_steps=20, learning_rate=1e-5, health={"window": 6})
    generator = torch.Generator().manual_seed(0)

    def wear_down(step):
        with torch.no_grad():
            for p in trainer.model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))

    trainer.add_callback(Watch(wear_down))
    trainer.train()
    found = findings(tmp_path)
    assert found["reward_fall"]["value"] > found["reward_fall"]["threshold"] == 1.0
    active = [record["step"] for record in records(tmp_path) if "reward_fall" in record.get("active", [])]
    assert len(active) > 1
    told = [text for text in caplog.messages if "(reward_fall)" in text]
    assert len(told) == 1
    assert told[0].startswith(f"Step {active[0]}: both mean rewards fall: within 6 steps")
    assert "Lower learning_rate" in told[0]


def test_a_tame_run_is_found_healthy(build, tmp_path):
    build(max_steps=12, learning_rate=1e-5, beta=0.1, health={"window": 6}).train()
    assert findings(tmp_path) == {}


def test_aot_in_groups_of_one_is_told_at_the_first_step(build, tmp_path):
    build(sort_group=1, stop=1).train()
    assert list(findings(tmp_path)) == ["sort_group_bias"]
    assert "nothing is sorted" in findings(tmp_path)["sort_group_bias"]["message"]


def test_satisfied_hinges_are_told(build, tmp_path):
    """Once the policy has learnt all pairs with their margin, no coefficient is left."""
    build(objective="hinge", max_steps=40, learning_rate=3e-3, health={"window": 5}).train()
    finding = findings(tmp_path)["effective_share"]
    assert finding["value"] < 0.1
    assert records(tmp_path)[-1]["effective_share"] == 0


def test_the_probe_looks_when_it_should(build, tmp_path):
    trainer = build(health={"probe_every": 4, "probe_size": 3, "probe_new_tokens": 5})
    trainer.train()
    found = records(tmp_path)
    assert [record["step"] for record in found if "probe_entropy" in record] == [0, 4, 8]
    start = found[0]
    assert start.keys() == {"step", "probe_entropy", "probe_length"}
    assert 0 < start["probe_entropy"] < math.log(64)
    assert 1 <= start["probe_length"] <= 5
    assert trainer.model.training, "back in training mode"


def test_a_probe_alone_measures_entropy_alone(build, tmp_path):
    build(health={"probe_every": 4}, stop=4).train()
    assert "probe_length" not in records(tmp_path)[0]


def test_collapse_on_the_probe_is_found(build, tmp_path):
    """A policy made certain by force: its last layer's norm is scaled up after step 2."""
    trainer = build(health={"probe_every": 2})

    def sharpen(step):
        if step == 2:
            with torch.no_grad():
                trainer.model.model.norm.weight.mul_(50)

    trainer.add_callback(Watch(sharpen))
    trainer.train()
    found = records(tmp_path)
    assert found[4]["probe_entropy"] < 0.5 * found[0]["probe_entropy"]
    assert findings(tmp_path)["entropy_ratio"]["value"] < 0.5


def test_resuming_writes_no_step_twice_and_warns_of_nothing_twice(build, tmp_path, caplog):
    options = {"sort_group": 1, "health": {"window": 5, "probe_every": 3}}
    build("whole", **options).train()
    build(stop=5, **options).train()  # checkpoint of step 4; the record of step 5 is there
    assert records(tmp_path)[-1]["step"] == 5
    caplog.clear()
    build(**options).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert not [text for text in caplog.messages if "sort_group_bias" in text]
    assert records(tmp_path) == records(tmp_path, "whole")


# ----------------------------------------------------------- what is not finite


def test_scores_that_are_not_finite_are_written_down(build, tmp_path):
    trainer = build(max_steps=6)

    def break_weights(step):
        if step == 3:
            with torch.no_grad():
                trainer.model.model.embed_tokens.weight[7] = float("nan")

    trainer.add_callback(Watch(break_weights))
    with pytest.raises(NonFiniteError, match="Nothing was updated") as caught:
        trainer.train()
    last = records(tmp_path)[-1]
    assert last["step"] == 4
    (finding,) = last["findings"]
    assert finding == {"guard": "non_finite", "severity": "error", "message": str(caught.value)}


def rows_with_token(trainer, token):
    return sorted(
        {row.source_row for unit in trainer.train_dataset for row in unit if token in row.input_ids}
    )


@pytest.mark.parametrize("micro_batch_size", [1, 3, 20])
@pytest.mark.parametrize("objective", ["aot", "dpo"])
def test_a_gradient_that_is_not_finite_names_its_rows(build, tmp_path, micro_batch_size, objective):
    """A token whose embedding has an infinite gradient: exactly the rows that hold it are to blame."""
    trainer = build(global_batch_size=20, micro_batch_size=micro_batch_size, objective=objective)
    blamed = rows_with_token(trainer, 7)
    assert 0 < len(blamed) < 20

    def poison(module, inputs, output):
        here = (inputs[0] == 7).unsqueeze(-1)
        if output.requires_grad and bool(here.any()):
            output.register_hook(lambda gradient: torch.where(here, float("inf"), gradient))

    trainer.model.model.embed_tokens.register_forward_hook(poison)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(NonFiniteError, match="the backward pass overflowed in row") as caught:
        trainer.train()
    named = str(caught.value).split(" in row ")[1].split(" (")[0]
    assert sorted(int(row) for row in named.split(", ")) == blamed
    assert "The weights were not updated" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert records(tmp_path)[-1]["findings"][0]["guard"] == "non_finite"


def test_the_health_option_is_checked_with_the_others(build):
    with pytest.raises(ConfigError, match="health: unknown threshold 'windw'; did you mean 'window'?"):
        build(health={"windw": 3})
