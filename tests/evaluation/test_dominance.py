"""From models and rows to a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from distal.errors import ConfigError, DataError
from distal.evaluation import certificate_from_scores, dominance, evaluate_dominance
from distal.scoring import score_dataset
from distal.types import DataKind, TokenRow

Models = tuple[LlamaForCausalLM, LlamaForCausalLM]


class _Rows:
    """A row source held in memory."""

    def __init__(self, kind: DataKind, units: list[list[TokenRow]]):
        self.kind: DataKind = kind
        self.units = units

    def __len__(self) -> int:
        return len(self.units)

    def __getitem__(self, index: int) -> list[TokenRow]:
        return self.units[index]


def _row(generator: np.random.Generator, unit: int, *, desirable: bool):
    tokens = generator.integers(0, 50, size=int(generator.integers(4, 12))).tolist()
    return TokenRow(tokens, 2, desirable, unit, unit)


def _pairs(count: int = 12):
    generator = np.random.default_rng(0)
    return _Rows("paired", [[_row(generator, i, desirable=d) for d in (True, False)] for i in range(count)])


def _samples(labels: Sequence[bool]):
    generator = np.random.default_rng(1)
    return _Rows("unpaired", [[_row(generator, i, desirable=d)] for i, d in enumerate(labels)])


def _model(seed: int):
    torch.manual_seed(seed)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, initializer_range=0.3, **size))


@pytest.fixture(scope="module")
def models():
    return _model(0), _model(1)


def _scores_one_by_one(model: LlamaForCausalLM, rows: list[TokenRow]):
    """Summed log-probability of each completion, straight from the definition."""
    scores = []
    for row in rows:
        ids = torch.tensor([list(row.input_ids)])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits.float().log_softmax(-1)
        scores.append(
            sum(log_probs[0, t - 1, ids[0, t]].item() for t in range(row.prompt_length, ids.shape[1]))
        )
    return np.array(scores)


def test_paired_rewards_are_log_ratios_of_chosen_and_rejected(models: Models):
    data = _pairs()
    c = evaluate_dominance(*models, data, resamples=50, progress=False)
    rows = [row for unit in data.units for row in unit]
    policy, reference = (_scores_one_by_one(model, rows) for model in models)
    rewards = policy - reference
    assert c.kind == "paired"
    assert c.mean_gap == pytest.approx(rewards[0::2].mean() - rewards[1::2].mean(), abs=1e-4)
    assert c.accuracy == pytest.approx(np.mean(rewards[0::2] > rewards[1::2]))
    assert c.margins is not None
    # The mean margin gap is the mean reward gap: both are (policy - reference) of chosen minus rejected.
    assert c.margins.mean_gap == pytest.approx(c.mean_gap, abs=1e-9)
    assert c.margins.curves.v[-1] == pytest.approx((reference[0::2] - reference[1::2]).max(), abs=1e-4)


def test_unpaired_rows_are_split_by_label(models: Models):
    labels = [True, True, False, True, True, False, True]
    data = _samples(labels)
    c = evaluate_dominance(*models, data, resamples=50, progress=False)
    rows = [row for unit in data.units for row in unit]
    rewards = _scores_one_by_one(models[0], rows) - _scores_one_by_one(models[1], rows)
    mask = np.array(labels)
    assert (c.kind, c.n_preferred, c.n_other, c.margins) == ("unpaired", 5, 2, None)
    assert c.mean_gap == pytest.approx(rewards[mask].mean() - rewards[~mask].mean(), abs=1e-4)


def test_known_reference_scores_spare_the_reference_model(models: Models):
    data = _pairs()
    scores = iter(score_dataset(models[1], data, progress=None).tolist())
    known = _Rows(
        "paired", [[replace(row, reference_score=next(scores)) for row in unit] for unit in data.units]
    )
    # As `score_dataset` lays rows out by default, so that the scores are the same bit by bit.
    options: Any = {"layout": "padded", "resamples": 50, "progress": False}
    assert evaluate_dominance(models[0], None, known, **options) == evaluate_dominance(
        *models, data, **options
    )


def test_layouts_change_a_certificate_by_no_more_than_rounding(models: Models):
    by_layout = [
        evaluate_dominance(*models, _pairs(), layout=layout, resamples=50, progress=False)
        for layout in ("padded", "packed", "prefix_shared")
    ]
    for c in by_layout[1:]:
        assert c.decision == by_layout[0].decision
        assert c.mean_gap == pytest.approx(by_layout[0].mean_gap, abs=1e-4)


def test_a_reference_that_is_a_context_is_opened_for_scoring(models: Models):
    class Switched:
        description, derived_from_policy = "switched", True
        opened = closed = 0

        def fingerprint(self):
            return "switched"

        @contextmanager
        def active(self):
            self.opened += 1
            yield models[1]
            self.closed += 1

    reference = Switched()
    expected = evaluate_dominance(*models, _pairs(), resamples=50, progress=False)
    assert evaluate_dominance(models[0], reference, _pairs(), resamples=50, progress=False) == expected
    assert reference.opened == reference.closed > 0


def test_a_model_against_itself_is_undefined_even_in_other_batches(models: Models):
    data = _pairs(30)
    scores = iter(score_dataset(models[0], data, tokens_per_batch=16, progress=None).tolist())
    known = _Rows(
        "paired", [[replace(row, reference_score=next(scores)) for row in unit] for unit in data.units]
    )
    c = evaluate_dominance(models[0], None, known, tokens_per_batch=4096, resamples=50, progress=False)
    assert c.decision == "undefined"
    assert c.margins is not None
    assert c.margins.decision == "undefined"


def test_differences_within_the_noise_count_as_equality():
    reference = np.full(40, -800.0)
    labels = np.tile([True, False], 20)
    noise = np.full(40, 0.1)
    difference = np.random.default_rng(0).uniform(-1, 1, 40)
    close, apart = (
        certificate_from_scores(
            reference + size * difference, reference, labels, paired=False, noise=noise, resamples=50
        )
        for size in (0.1, 0.2)
    )
    assert close.violation_ratio is None
    assert apart.violation_ratio is not None


def test_options_reach_the_certificate(models: Models):
    c = evaluate_dominance(
        *models, _pairs(), resamples=31, seed=5, confidence=0.8, threshold=0.1, progress=False
    )
    assert (c.resamples, c.seed, c.confidence, c.threshold) == (31, 5, 0.8, 0.1)


def test_unusable_data_is_refused(models: Models):
    model, reference = models
    with pytest.raises(DataError, match="held-out data set is empty"):
        evaluate_dominance(model, reference, _Rows("paired", []))
    with pytest.raises(DataError, match="all 3 rows are preferred responses"):
        evaluate_dominance(model, reference, _samples([True] * 3), progress=False)
    with pytest.raises(DataError, match="24 of 24 rows carry no reference score"):
        evaluate_dominance(model, None, _pairs(), progress=False)
    with pytest.raises(DataError, match=r"shapes \(4,\), \(3,\) and \(4,\)"):
        certificate_from_scores(np.zeros(4), np.zeros(3), np.array([True, False] * 2), paired=True)
    for rows in (3, 5):
        alternating = np.arange(rows) % 2 == 0
        with pytest.raises(
            DataError, match=f"paired rows come in twos, chosen and rejected, got {rows} rows"
        ):
            certificate_from_scores(np.zeros(rows), np.zeros(rows), alternating, paired=True)
    with pytest.raises(DataError, match="must alternate chosen and rejected"):
        certificate_from_scores(np.zeros(4), np.zeros(4), np.array([True, True, False, False]), paired=True)


def test_wrong_options_are_refused_before_scoring(monkeypatch: pytest.MonkeyPatch, models: Models):
    def never(*_: object, **__: object):
        raise AssertionError("scored")

    monkeypatch.setattr(dominance, "score_dataset", never)
    with pytest.raises(ConfigError, match="resamples must be at least 39"):
        evaluate_dominance(*models, _pairs(), resamples=1)


def test_rows_of_one_prompt_are_resampled_together(models: Models):
    generator = np.random.default_rng(0)
    rows = [_row(generator, i, desirable=i % 2 == 0) for i in range(40)]
    four_each = _Rows(
        "unpaired", [[replace(row, input_ids=[i // 4, 1, *row.input_ids])] for i, row in enumerate(rows)]
    )
    one_token = _Rows("unpaired", [[replace(unit[0], prompt_length=1)] for unit in four_each.units])
    options: Any = {"layout": "padded", "resamples": 50, "progress": False}
    c = evaluate_dominance(*models, four_each, **options)
    assert (c.clusters, c.samples) == (10, 10)
    assert c.decision == "not_supported"
    # A single opening token says nothing, and the user may say so of any prompt.
    assert evaluate_dominance(*models, one_token, **options).clusters is None
    alone = evaluate_dominance(*models, four_each, by_prompt=False, **options)
    assert (alone.clusters, alone.samples) == (None, 20)
