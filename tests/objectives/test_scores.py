"""Scores: splitting, rewards, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distal.objectives import SequenceScores, get_objective


def test_samples_are_split_by_label_in_order():
    policy = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    reference = torch.tensor([0.5, 0.25, 0.0, 8.0])
    scores = SequenceScores.from_samples(policy, reference, torch.tensor([False, True, True, False]))
    assert not scores.paired
    assert scores.reward_chosen.tolist() == [1.75, 3.0]
    assert scores.reward_rejected.tolist() == [0.5, -4.0]
    (gradient,) = torch.autograd.grad(scores.reward_chosen.sum(), policy)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_margins_of_pairs():
    scores = SequenceScores.from_pairs(*torch.tensor([[1.0, 5.0], [2.0, 7.0], [3.0, 11.0], [4.5, 13.0]]))
    assert scores.policy_margin.tolist() == [-1.0, -2.0]
    assert scores.reference_margin.tolist() == [-1.5, -2.0]
    assert scores.reward_margin.tolist() == [0.5, 0.0]


def test_half_precision_rewards_are_single():
    # 1000 and 1000.25 are the same number in bfloat16; the reference's exact score must not be rounded to it.
    policy = torch.tensor([-1000.0, -8.0], dtype=torch.bfloat16)
    reference = torch.tensor([-1000.25, -8.5])
    scores = SequenceScores.from_samples(policy, reference, torch.tensor([True, False]))
    assert scores.reward_chosen.tolist() == [0.25]
    assert scores.reward_chosen.dtype == torch.float32


ONE, TWO = torch.zeros(1), torch.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TWO, TWO, ONE, TWO), "policy_chosen and reference_chosen must have equal lengths, got 2 and 1"),
        ((TWO, ONE, TWO, ONE), "pairs need one rejected score per chosen one, got 2 chosen and 1 rejected"),
        ((TWO, TWO, TWO, torch.tensor([0.0, torch.nan])), "reference_rejected holds 1 values that are NaN"),
        ((TWO[:0], TWO, TWO[:0], TWO), "policy_chosen is empty"),
        ((TWO[None], TWO, TWO[None], TWO), r"policy_chosen must be 1-D, got shape \(1, 2\)"),
        (
            (TWO, TWO, TWO.to("meta"), TWO),
            "policy_chosen is on cpu and reference_chosen is on meta",
        ),
    ],
)
def test_bad_pairs(arguments: tuple[Tensor, Tensor, Tensor, Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        SequenceScores.from_pairs(*arguments)


@pytest.mark.parametrize(
    ("desirable", "error", "message"),
    [
        (
            torch.tensor([True, True]),
            ValueError,
            "a batch of samples must hold both labels, got 2 desirable among 2",
        ),
        (torch.tensor([False, False]), ValueError, "got 0 desirable among 2"),
        (torch.tensor([1, 0]), TypeError, "desirable must be a boolean tensor, got torch.int64"),
        ([True, False], TypeError, "desirable must be a boolean tensor, got list"),
        (torch.tensor([True]), ValueError, r"desirable must have one label per score, shape \(2,\) on cpu"),
    ],
)
def test_bad_labels(desirable: Tensor, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        SequenceScores.from_samples(TWO, TWO, desirable)


def test_pairs_are_demanded_where_needed():
    unpaired = SequenceScores.from_samples(TWO, TWO, torch.tensor([True, False]))
    with pytest.raises(ValueError, match="objective 'aot' needs pairs, got unpaired scores"):
        get_objective("aot")(unpaired)
    with pytest.raises(TypeError, match="aot takes SequenceScores, got Tensor"):
        get_objective("aot")(TWO)  # pyright: ignore[reportArgumentType]
