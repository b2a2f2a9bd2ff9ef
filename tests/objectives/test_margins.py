"""`uses_margins` states a fact about gradients, and the whole-batch engine relies on it."""

from __future__ import annotations

import pytest
import torch

from distal.objectives import SequenceScores, get_objective, objective_names

DIFFERENT = {"mix": {"parts": [{"objective": "aot"}, {"objective": "dpo"}]}}
CASES = [(name, {}) for name in objective_names()] + list(DIFFERENT.items())


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case)[:20])
def test_coefficients_of_a_pair_are_opposite_exactly_where_the_objective_says_so(name, options):
    torch.manual_seed(0)
    chosen, rejected = (torch.randn(7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    reference = torch.randn(2, 7, dtype=torch.float64)
    objective = get_objective(name, **options)
    lengths = torch.arange(1, 8)
    scores = SequenceScores.from_pairs(chosen, rejected, *reference, chosen_lengths=lengths)
    of_chosen, of_rejected = torch.autograd.grad(
        objective(scores).loss, (chosen, rejected), allow_unused=True, materialize_grads=True
    )
    opposite = bool(((of_chosen + of_rejected).abs() < 1e-12).all())
    assert objective.uses_margins == opposite
