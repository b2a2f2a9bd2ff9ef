"""Weights of rows: repetitions, whatever the batch is cut into; equal ones change no bit; and how they are read."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from distal.data import prepare_dataset
from distal.data.conversion import convert
from distal.data.reading import open_preferences
from distal.errors import ConfigError
from distal.training.resumption import RunIdentity
from tests.scoring.architectures import ARCHITECTURES, model_of
from tests.training.oracle import LIMITS, OBJECTIVES, assert_same, engine_step, plain_autograd


def weighted(rows, paired, weights):
    width = 2 if paired else 1
    return [dataclasses.replace(row, weight=weights[k // width % len(weights)]) for k, row in enumerate(rows)]


def repeated(rows, paired, times):
    width = 2 if paired else 1
    units = [rows[k : k + width] for k in range(0, len(rows), width)]
    return [row for k, unit in enumerate(units) for row in unit * times[k % len(times)]]


@pytest.mark.parametrize("strategy", ["auto", "recompute"])
@pytest.mark.parametrize(
    ("name", "paired"),
    [("aot", True), ("dpo", True), ("mix", True), ("aot_unpaired", False), ("kto", False)],
)
def test_a_step_with_whole_weights_is_one_with_repeated_rows(make_rows, name, paired, strategy):
    model = model_of(ARCHITECTURES["gpt2"], torch.float64)  # float64 throughout, norms included
    rows, objective = make_rows(6, paired=paired), OBJECTIVES[name]()
    expected = plain_autograd(model, repeated(rows, paired, [1, 3, 2]), objective, paired)
    rows = weighted(rows, paired, [0.5, 1.5, 1.0])
    for limit in ("1 unit", "60 tokens", "all"):
        got = engine_step(model, rows, objective, paired, LIMITS[limit], strategy=strategy)
        assert_same(got, expected, 1e-10, limit)


@pytest.mark.parametrize("name", ["aot", "dpo", "aot soft"])
def test_equal_weights_change_no_bit(make_llama, make_rows, name):
    model, rows, objective = make_llama(), make_rows(5), OBJECTIVES[name]()
    for limit in ("3 units", "all"):
        loss, gradients = engine_step(model, rows, objective, True, LIMITS[limit])
        same, same_gradients = engine_step(model, weighted(rows, True, [0.3]), objective, True, LIMITS[limit])
        assert torch.equal(loss, same)
        assert all(torch.equal(gradients[key], same_gradients[key]) for key in gradients)


@pytest.fixture
def weighted_pairs(make_pairs):
    """Twelve pairs: weights 1, 2, 3, ..., one without, and three that cannot be used."""
    rows = [row | {"weight": k + 1} for k, row in enumerate(make_pairs(12))]
    del rows[1]["weight"]
    for row, bad in zip(rows[2:], (0, -1, "much"), strict=False):
        row["weight"] = bad
    return rows


def test_a_column_weight_is_read_and_told(weighted_pairs, word_tokenizer, tmp_path):
    data = prepare_dataset(weighted_pairs, word_tokenizer)
    assert data.weights is not None
    assert data.weights.tolist() == [1, 1, 6, 7, 8, 9, 10, 11, 12]
    assert [row.weight for row in data[2]] == [6, 6]
    assert {reason: count.count for reason, count in data.report.dropped.items()} == {
        "zero_weight": 1,
        "bad_weight": 2,
    }
    assert any(note.startswith("column weight: used") for note in data.report.notes)
    kept = pickle.loads(pickle.dumps(data.select([3, 2]).with_reference_scores(np.zeros(4))))
    assert kept.weights.tolist() == [7, 6]
    assert data.without_weights().weights is None
    assert data.without_weights()[0][0].weight is None
    assert data.without_weights().fingerprint == data.fingerprint  # reference scores are the same
    convert(open_preferences(weighted_pairs), tmp_path / "rows.parquet")
    again = prepare_dataset(str(tmp_path / "rows.parquet"), word_tokenizer)
    assert again.weights is not None
    assert again.weights.tolist() == data.weights.tolist()
    assert (
        prepare_dataset([{**row, "weight": None} for row in weighted_pairs], word_tokenizer).weights is None
    )


def test_training_uses_weights_unless_told_otherwise(build, weighted_pairs):
    losses = {}
    for use in (True, False):
        trainer = build(f"run {use}", data=weighted_pairs, use_weights=use, max_steps=1, global_batch_size=9)
        trainer.train()
        losses[use] = trainer.state.log_history[0]["grad_norm"]
        identity: RunIdentity = trainer._run_identity()
        assert ("weights" in identity.sections["data"]) == use
    assert losses[True] != losses[False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sort": "soft", "beta": None}, "the train data has a column weight, and sort='soft' mixes samples"),
        ({"order_statistics": "stream"}, "running laws .* hold rewards without weights"),
        (
            {"objective": "mix", "beta": None, "parts": [{"objective": "aot", "sort": "soft"}]},
            "mixes samples",
        ),
    ],
)
def test_objectives_without_a_place_for_weights_refuse_them(build, weighted_pairs, options, message):
    with pytest.raises(ConfigError, match=message):
        build(data=weighted_pairs, **options)
    build(data=weighted_pairs, use_weights=False, **options)
