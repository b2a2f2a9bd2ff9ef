"""Order statistics from running laws: the micro-batch changes nothing, and the state survives bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distal.errors import ConfigError, NonFiniteError, OutputError
from distal.objectives import get_objective
from distal.scoring import score_rows
from distal.training import AlignmentConfig, AlignmentTrainer, MicroBatchLimit
from distal.training.batch import local_batch
from distal.training.strategies.base import Setting, Step
from distal.training.strategies.streamed import Streamed
from distal.training.stream import STREAM_FILE, OrderStatistics, RunningLaw, initial_statistics
from distal.transport.laws import WeightedLaw, weighted_law
from distal.types import DataKind


def running(atoms, **options):
    given: dict[str, Any] = {"per_step": 6, "half_life": 2.0, "capacity": 50, **options}
    return RunningLaw(torch.as_tensor(atoms, dtype=torch.float64), **given)


def statistics(name, rows, paired):
    objective = get_objective(name, beta=0.1)
    if name == "aot":
        scores = torch.tensor([row.reference_score for row in rows], dtype=torch.float64)
        margins = scores[0::2] - scores[1::2]
        return OrderStatistics(objective, running(margins), weighted_law(margins))
    return OrderStatistics(objective, running([0.0]), running([0.0]))


def run(model, rows, paired, limit, found):
    model.zero_grad()
    kind = "paired" if paired else "unpaired"
    setting = Setting(objective=found.objective, kind=kind, limit=limit)
    result = Streamed(found).run(Step(setting, model, rows, limit.cut(kind, rows)))
    return result, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "paired"), [("aot", True), ("aot_unpaired", True), ("aot_unpaired", False)])
def test_gradient_does_not_depend_on_the_micro_batch(make_llama, make_rows, name, paired):
    """Oracle: all rows in one graph, the per-sample costs of the laws before the step, plain autograd."""
    model = make_llama(dtype=torch.float64)
    steps = [make_rows(8, paired=paired, seed=seed) for seed in range(3)]
    whole = statistics(name, steps[0], paired)
    cut = {units: statistics(name, steps[0], paired) for units in (1, 3)}
    for rows in steps:
        result, expected = run(model, rows, paired, MicroBatchLimit(units=100), whole)
        scale = max(g.abs().max().item() for g in expected.values())
        model.zero_grad()
        (score_rows(model, rows) * result.coefficients).sum().backward()
        for parameter_name, p in model.named_parameters():
            if p.grad is not None:
                assert (p.grad - expected[parameter_name]).abs().max() <= 1e-10 * scale
        for units, found in cut.items():
            parts, gradient = run(model, rows, paired, MicroBatchLimit(units=units), found)
            torch.testing.assert_close(parts.output.loss, result.output.loss, rtol=1e-10, atol=1e-12)
            assert max((gradient[k] - expected[k]).abs().max() for k in expected) <= 1e-10 * scale


def test_weights_halve_with_the_half_life_and_the_start_counts_as_history():
    law = running([5.0], per_step=1, half_life=2.0)
    ratio = 2**-0.5
    series = lambda first: ratio**first / (1 - ratio)  # noqa: E731
    assert law.table().total.item() == pytest.approx(series(1))
    for step in range(6):
        law.update(torch.tensor([float(-step)]))
    table = law.table()
    weights = torch.diff(table.upto, prepend=torch.zeros(1, dtype=torch.float64))
    assert table.values.tolist() == [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 5.0]
    assert weights.tolist() == pytest.approx([ratio**age for age in range(1, 7)] + [series(7)])
    assert table.total.item() == pytest.approx(series(1))


def test_capacity_keeps_the_latest():
    law = running([0.0], capacity=3)
    law.update(torch.tensor([1.0, 2.0]))
    law.update(torch.tensor([3.0, 4.0]))
    assert law.values.tolist() == [2.0, 3.0, 4.0]
    assert law.born.tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_state_survives_a_file_bit_by_bit(make_rows, tmp_path, name):
    rows = make_rows(8)
    batch = local_batch("paired", rows, torch.randn(16, generator=torch.Generator().manual_seed(0)))
    one, two = statistics(name, rows, True), statistics(name, rows, True)
    for _ in range(3):
        one.update(batch)
    one.save(tmp_path)
    two.load(tmp_path)
    for found in (one, two):
        found.update(batch)
    for law_one, law_two in zip(one.laws, two.laws, strict=True):
        assert torch.equal(law_one.values, law_two.values)
        assert torch.equal(law_one.upto, law_two.upto)


def test_a_bad_state_is_refused(make_rows, tmp_path):
    rows = make_rows(4)
    unpaired, paired = statistics("aot_unpaired", rows, True), statistics("aot", rows, True)
    with pytest.raises(OutputError, match="cannot be read"):
        paired.load(tmp_path)
    unpaired.save(tmp_path)
    with pytest.raises(OutputError, match=r"expected \['u.born'"):
        paired.load(tmp_path)
    (tmp_path / STREAM_FILE).write_bytes(b"half a fi")
    with pytest.raises(OutputError, match="cannot be read"):
        unpaired.load(tmp_path)


def test_a_score_that_is_not_finite_leaves_the_laws_alone(make_llama, make_rows):
    model, rows = make_llama(dtype=torch.float64), make_rows(4)
    found = statistics("aot_unpaired", rows, True)
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(NonFiniteError, match="not finite"):
        run(model, rows, True, MicroBatchLimit(units=1), found)
    assert found.u.step == 0
    with pytest.raises(ValueError, match="finite"):
        found.u.update(torch.tensor([float("nan")]))


def test_an_objective_that_needs_its_batch_is_refused():
    with pytest.raises(ConfigError, match="order_statistics: stream"):
        OrderStatistics(get_objective("aot", sort="soft"), running([0.0]), weighted_law(torch.zeros(1)))


class Units(list[Any]):
    """A training set as the running laws see it."""

    kind: DataKind = "paired"
    reference_scores: Any = np.array([-3.0, -5.0, -4.0, -4.0, -1.0, -2.0])
    labels: Any = None


def begin(name, units, **options):
    given: dict[str, Any] = {"global_batch_size": 8, "half_life": 2.0, "capacity": 50} | options
    return initial_statistics(get_objective(name), units, **given)


def test_margins_begin_as_those_of_the_reference_over_the_whole_data_set():
    found = begin("aot", Units(range(3)))
    assert isinstance(found.v, WeightedLaw)
    assert found.v.values.tolist() == [0.0, 1.0, 2.0]
    assert found.u.initial.tolist() == [2.0, 0.0, 1.0]
    assert found.u.per_step == 8


def test_rewards_begin_at_zero_and_each_label_counts_by_its_share():
    pairs = begin("aot_unpaired", Units(range(3)))
    assert isinstance(pairs.v, RunningLaw)
    assert (pairs.u.per_step, pairs.v.per_step) == (8, 8)
    samples = Units(range(6))
    samples.kind, samples.labels = "unpaired", np.array([True, False, False, False])
    found = begin("aot_unpaired", samples)
    assert isinstance(found.v, RunningLaw)
    assert (found.u.per_step, found.v.per_step) == (2, 6)
    assert found.u.initial.tolist() == found.v.initial.tolist() == [0.0]


def test_reference_scores_must_be_known():
    units = Units(range(3))
    units.reference_scores = None
    with pytest.raises(ValueError, match="not known yet"):
        begin("aot", units)


# ------------------------------------------------------------------------------------------ through the Trainer


@pytest.fixture
def trainer(tmp_path, make_llama, make_pairs, make_samples, word_tokenizer):
    def make(out="run", kind="paired", **options):
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / out),
            "reference_cache_dir": str(tmp_path / "cache"),
            "order_statistics": "stream",
            "objective": "aot" if kind == "paired" else "aot_unpaired",
            "global_batch_size": 6,
            "micro_batch_size": 2,
            "learning_rate": 1e-3,
            "beta": 0.1,
            "max_steps": 6,
            "save_strategy": "steps",
            "save_steps": 3,
            "logging_steps": 1,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        return AlignmentTrainer(
            make_llama(dtype=torch.float64),
            args=AlignmentConfig(**(settings | options)),
            train_dataset=make_pairs(20) if kind == "paired" else make_samples(20),
            processing_class=word_tokenizer,
        )

    return make


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_a_resumed_run_has_the_laws_of_one_that_was_not_interrupted(trainer, tmp_path, kind):
    whole = trainer(kind=kind)
    whole.train()
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").unlink()  # as if killed before it was complete
    resumed = trainer(kind=kind)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    one, two = weights(whole), weights(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one), "not bitwise equal"
    for law_one, law_two in zip(whole.order_statistics.laws, resumed.order_statistics.laws, strict=True):
        assert torch.equal(law_one.values, law_two.values)
    # Without the laws of its past it is another run.
    forgetful = trainer(kind=kind)
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").unlink()
    (tmp_path / "run" / "checkpoint-3" / STREAM_FILE).unlink()
    with pytest.raises(OutputError, match="no usable checkpoint.*2 unusable"):
        forgetful.train(resume_from_checkpoint=True)


def test_the_log_tells_the_loss_of_the_batch_too(trainer):
    """Before the first step all gaps of the batch are zero: log 2. The laws see each sample besides themselves."""
    run = trainer(max_steps=1)
    run.train()
    first = run.state.log_history[0]
    assert first["stream/batch_loss"] == pytest.approx(np.log(2), abs=1e-12)
    assert first["loss"] == pytest.approx(np.log(2), abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order_statistics": "steam"}, "did you mean 'stream'"),
        ({"order_statistics": "batch", "stream_half_life": 3.0}, "stream_half_life has no effect without"),
        ({"order_statistics": "batch", "stream_capacity": 10}, "stream_capacity has no effect without"),
        ({"strategy": "recompute"}, "strategy: recompute has no effect with order_statistics: stream"),
        ({"objective": "dpo"}, "order_statistics: stream: objective 'dpo'"),
        ({"sort": "soft"}, "order_statistics: stream: sort='soft'"),
        ({"sort_group": 4}, "order_statistics: stream: sort_group=4"),
        ({"stream_half_life": 0.0}, "stream_half_life: expected a positive number"),
        ({"stream_half_life": float("inf")}, "stream_half_life: expected a positive number"),
        ({"stream_capacity": 0}, "stream_capacity: expected a whole number of at least 1"),
    ],
)
def test_options_that_have_no_meaning_are_refused(trainer, options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(**options)


def test_defaults_are_written_out(trainer):
    args = trainer().args
    assert args.stream_half_life > 0
    assert args.stream_capacity > 0
    assert trainer(order_statistics="batch").args.stream_half_life is None
