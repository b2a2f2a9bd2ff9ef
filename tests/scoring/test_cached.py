"""Scoring through the cache: the bits of scoring without it, whatever was known, killed, damaged or shared before."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from distal.caching import KINDS, list_entries
from distal.errors import NonFiniteError, OutputError
from distal.scoring import (
    PACKED,
    PADDED,
    PREFIX_SHARED,
    AdapterOff,
    FrozenModel,
    Passes,
    cached_scores,
    dataset,
    reference_scores,
    score_dataset,
)
from distal.scoring.dataset import shard_bounds
from tests.scoring.test_dataset import Rows

BUDGET = 40
"""Tokens of a forward pass."""


class Pairs:
    """Paired rows, two for each unit."""

    kind = "paired"
    fingerprint = "pairs"

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows) // 2

    def __getitem__(self, index):
        return self.rows[2 * index : 2 * index + 2]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_TOKENS", 60)


@pytest.fixture(scope="module")
def model(make_llama):
    return make_llama()


@pytest.fixture
def data(make_rows):
    return Rows(make_rows(9))


def score(model, data, folder, how=None, **options):
    return cached_scores(model, data, how or Passes(tokens_per_batch=BUDGET), cache_dir=folder, **options)


def the_entry(folder) -> Path:
    (entry,) = list_entries(Path(folder))
    return entry.path


def shards_of(folder) -> list[Path]:
    return sorted(the_entry(folder).glob("0*.safetensors"))


def break_off(model, data, folder, after):
    """Scores, and fails after so many forward passes."""
    passes, real = itertools.count(), dataset.score_rows

    def failing(scored, rows, layout):
        if next(passes) == after:
            raise KeyboardInterrupt
        return real(scored, rows, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "score_rows", failing)
        with pytest.raises(KeyboardInterrupt):
            score(model, data, folder)


@given(st.lists(st.integers(1, 200), max_size=40), st.sampled_from([1, 2]))
def test_shards_cover_the_rows_and_split_no_unit(lengths, width):
    lengths = lengths[: len(lengths) // width * width]
    bounds = shard_bounds(lengths, width)
    assert bounds[0] == 0
    assert bounds[-1] == len(lengths)
    begins = np.cumsum([0, *lengths])
    for start, stop in itertools.pairwise(bounds):
        assert start < stop
        assert start % width == 0
        # No shard is larger than the stretch that its units begin in, but for its last unit.
        assert begins[stop - width] - begins[start] < dataset.SHARD_TOKENS


@pytest.mark.parametrize("layout", [PADDED, PACKED, PREFIX_SHARED], ids=lambda layout: layout.name)
@pytest.mark.parametrize("kind", [Rows, Pairs])
def test_bits_are_those_of_scoring_without_a_cache(model, make_rows, tmp_path, kind, layout):
    data, how = kind(make_rows(9)), Passes(tokens_per_batch=BUDGET, layout=layout)
    expected = score_dataset(model, data, tokens_per_batch=BUDGET, layout=layout, progress=None)
    first, again = (score(model, data, tmp_path, how) for _ in range(2))
    assert len(shards_of(tmp_path)) > 2
    assert first.scores.dtype == again.scores.dtype == expected.dtype == np.float32
    assert np.array_equal(first.scores, expected)
    assert np.array_equal(again.scores, expected)
    assert (first.computed, again.computed) == (len(expected), 0)


def test_double_precision_is_kept(make_llama, data, tmp_path):
    model = make_llama(dtype=torch.float64)
    first, again = (score(model, data, tmp_path).scores for _ in range(2))
    assert first.dtype == again.dtype == np.float64
    assert np.array_equal(first, again)


@pytest.mark.parametrize("after", [0, 5, 8])
def test_what_was_broken_off_goes_on_to_the_same_bits(model, data, tmp_path, after):
    expected = score(model, data, tmp_path / "whole")
    break_off(model, data, tmp_path / "parts", after)
    kept = [path.read_bytes() for path in shards_of(tmp_path / "parts")]
    assert len(kept) < len(shards_of(tmp_path / "whole"))
    assert bool(kept) == bool(after)
    resumed = score(model, data, tmp_path / "parts")
    assert np.array_equal(resumed.scores, expected.scores)
    assert (resumed.computed < expected.computed) == bool(after)
    both = [[path.read_bytes() for path in shards_of(tmp_path / name)] for name in ("whole", "parts")]
    assert both[0] == both[1]


def test_shards_of_another_budget_are_as_good(model, data, tmp_path):
    expected = score(model, data, tmp_path / "whole").scores
    break_off(model, data, tmp_path / "parts", 5)
    resumed = score(model, data, tmp_path / "parts", Passes(tokens_per_batch=1))
    assert 0 < resumed.computed < len(expected)
    np.testing.assert_allclose(resumed.scores, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def flipped(model, make_rows, tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("flipped"), Rows(make_rows(9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "SHARD_TOKENS", 60)
        return folder, data, score(model, data, folder).scores


@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_costs_one_shard_and_changes_nothing(model, flipped, draw):
    folder, data, expected = flipped
    before = {path: path.read_bytes() for path in the_entry(folder).iterdir() if path.stat().st_size}
    path = draw.draw(st.sampled_from(sorted(before)))
    content = bytearray(before[path])
    content[draw.draw(st.integers(0, len(content) - 1))] ^= draw.draw(st.integers(1, 255))
    path.write_bytes(content)
    messages: list[str] = []
    again = score(model, data, folder, warn=messages.append)
    assert np.array_equal(again.scores, expected)
    assert len(messages) == 1
    assert str(path) in messages[0]
    assert 0 < again.computed < len(expected) if path.suffix == ".safetensors" else again.computed == 0
    assert {path: path.read_bytes() for path in before} == before, "mended"


@pytest.mark.parametrize("change", ["weights", "rows", "precision", "layout", "type", "shards", "attention"])
def test_whatever_changes_scores_changes_the_key(make_llama, data, tmp_path, monkeypatch, change):
    base = score(make_llama(), data, tmp_path).key
    options: dict[str, Any] = {"tokens_per_batch": BUDGET}
    model = make_llama(seed=int(change == "weights"))
    if change == "rows":
        data.fingerprint = "other rows"
    elif change == "precision":
        options["autocast_dtype"] = torch.bfloat16
    elif change == "layout":
        options["layout"] = PACKED
    elif change == "type":
        model = model.double()
    elif change == "shards":
        monkeypatch.setattr(dataset, "SHARD_TOKENS", 50)
    elif change == "attention":
        model.set_attn_implementation("eager")
    assert score(model, data, tmp_path, Passes(**options)).key != base
    assert len(list_entries(tmp_path)) == 2


def test_objectives_and_base_models_share_an_entry(make_llama, data, tmp_path):
    """A bare model, and the same under an adapter that is off."""
    bare = score(FrozenModel(make_llama()), data, tmp_path)
    policy = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    shared = score(AdapterOff(policy), data, tmp_path)
    assert shared.key == bare.key
    assert shared.computed == 0
    assert np.array_equal(
        shared.scores, reference_scores(make_llama(), data, cache_dir=tmp_path, progress=None)
    )


def test_rows_that_cannot_be_scored_leave_the_shards_before_them(make_llama, data, tmp_path):
    model = make_llama()
    last = data.rows[-1]
    with torch.no_grad():
        model.get_input_embeddings().weight[last.input_ids[-2]] = float("nan")
    with pytest.raises(NonFiniteError):
        score(model, data, tmp_path)
    for entry in list_entries(tmp_path):
        assert entry.state == "partial"
        assert KINDS["scores"].check(entry.path) == []


def test_an_unwritable_cache_is_an_error_with_a_way_out_before_anything_is_scored(
    model, data, tmp_path, monkeypatch
):
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setattr(dataset, "score_rows", lambda *a, **k: pytest.fail("scored"))
    with pytest.raises(OutputError, match="reference_cache_dir"):
        score(model, data, occupied)
    assert occupied.read_text() == ""


def test_what_people_want_to_know_is_kept(model, data, tmp_path):
    score(model, data, tmp_path, about={"model": "org/name", "data": "film.jsonl"})
    (entry,) = list_entries(tmp_path)
    assert entry.about == {"model": "org/name", "data": "film.jsonl"}
    assert (entry.state, entry.rows, entry.rows_wanted) == ("complete", 18, 18)


def test_the_bar_ends_at_its_total_and_counts_what_is_missing(model, data, tmp_path, capsys):
    break_off(model, data, tmp_path, 5)
    score(model, data, tmp_path, Passes(tokens_per_batch=BUDGET, progress="weighing"))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "weighing" in shown.err
    assert "100%" in shown.err
