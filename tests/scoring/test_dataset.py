"""Whole data sets: order, batching invariance, non-finite scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distal.errors import NonFiniteError
from distal.scoring import score_dataset, score_row_list, score_rows
from distal.types import DataKind


class Rows:
    """The smallest `RowSource`: unpaired rows."""

    kind: DataKind = "unpaired"
    fingerprint = "rows"

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return [self.rows[index]]


def test_order_is_that_of_the_rows_and_batching_changes_nothing(make_llama, make_rows):
    model, rows = make_llama(dtype=torch.float64), make_rows(7)
    expected = torch.cat([score_rows(model, [row]) for row in rows]).detach().numpy()
    for budget in (1, 40, 10_000):
        scores = score_dataset(model, Rows(rows), tokens_per_batch=budget, progress=None)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-10)


def test_training_mode_and_gradients_are_left_alone(make_llama, make_rows):
    model = make_llama(attention_dropout=0.5).train()
    first, second = (score_row_list(model, make_rows(3)) for _ in range(2))
    assert np.array_equal(first, second), "dropout must be off while scoring"
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_nan_in_the_weights_is_reported_with_the_row(make_llama, make_rows):
    model, rows = make_llama(), make_rows(3)
    with torch.no_grad():
        # One token's embedding only: just the rows that contain it are concerned.
        model.get_input_embeddings().weight[rows[2].input_ids[-2]] = float("nan")
    with pytest.raises(NonFiniteError, match=rf"row {rows[2].source_row} "):
        score_row_list(model, rows)


def test_progress_goes_to_standard_error(make_llama, make_rows, capsys):
    score_row_list(make_llama(), make_rows(2), progress="weighing words")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "weighing words" in captured.err
