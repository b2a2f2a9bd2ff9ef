"""Scores: splitting, rewards, and refusals."""

from __future__ import annotations

from typing import Any

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
FIELDS = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.tensor([0.0, torch.nan]), ValueError, "holds 1 values that are NaN or infinite among 2"),
        (torch.tensor([torch.inf, 0.0]), ValueError, "holds 1 values that are NaN or infinite among 2"),
        (TWO[:0], ValueError, "is empty"),
        (TWO[None], ValueError, r"must be 1-D, got shape \(1, 2\)"),
        (TWO.long(), TypeError, "must have a floating dtype, got torch.int64"),
        ([0.0, 0.0], TypeError, "must be a torch.Tensor, got list"),
        (None, TypeError, "must be a torch.Tensor, got NoneType"),
        (TWO.to("meta"), ValueError, "is on cpu and .* is on meta|is on meta and .* is on cpu"),
        (ONE, ValueError, "must have equal lengths, got"),
    ],
    ids=["nan", "inf", "empty", "2-D", "int", "list", "None", "device", "short"],
)
def test_bad_scores(field: str, bad: Any, error: type[Exception], message: str):
    good: dict[str, Any] = dict.fromkeys(FIELDS, TWO)
    for build in (SequenceScores.from_pairs, SequenceScores):
        with pytest.raises(error, match=message) as raised:
            build(**(good | {field: bad}))
        assert field in str(raised.value)


def test_pairs_have_two_sides_of_one_length():
    with pytest.raises(ValueError, match="pairs need one rejected score per chosen one, got 2 chosen and 1"):
        SequenceScores.from_pairs(TWO, ONE, TWO, ONE)
    assert not SequenceScores(TWO, ONE, TWO, ONE).paired


@pytest.mark.parametrize(
    ("extra", "bad", "error", "message"),
    [
        (
            "weights",
            torch.tensor([1.0, -1.0]),
            ValueError,
            "weights must be finite and non-negative, got -1.0",
        ),
        ("weights", torch.zeros(2), ValueError, "weights must have a positive sum"),
        ("weights", torch.ones(3), ValueError, "weights must have one weight per sample"),
        ("weights", [1.0, 1.0], TypeError, "weights must be a torch.Tensor, got list"),
        ("lengths", torch.tensor([3, -2]), ValueError, "lengths must be finite and non-negative, got -2.0"),
        ("lengths", torch.tensor([[3, 2]]), ValueError, "lengths must have one weight per sample"),
    ],
)
def test_bad_weights_and_lengths(extra: str, bad: Any, error: type[Exception], message: str):
    paired = {"weights": "weights", "lengths": "chosen_lengths"}[extra]
    with pytest.raises(error, match=message):
        SequenceScores.from_pairs(TWO, TWO, TWO, TWO, **{paired: bad})
    with pytest.raises(error, match=message):
        SequenceScores.from_samples(TWO, TWO, torch.tensor([True, False]), **{extra: bad})


def test_a_pair_has_one_weight():
    one, other = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1000.0])
    with pytest.raises(ValueError, match="got 1.0 and 1000.0 at position 1; use from_pairs"):
        SequenceScores(TWO, TWO, TWO, TWO, paired=True, chosen_weights=one, rejected_weights=other)
    SequenceScores(TWO, TWO, TWO, TWO, paired=True, chosen_weights=one, rejected_weights=one.double().clone())
    SequenceScores(TWO, TWO, TWO, TWO, chosen_weights=one, rejected_weights=other)


def test_bad_mismatched_rewards():
    for bad, message in (
        (torch.tensor([torch.nan]), "mismatched_rewards holds 1 values"),
        (TWO.to("meta"), "mismatched_rewards is on meta and policy_chosen is on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            SequenceScores(TWO, TWO, TWO, TWO, mismatched_rewards=bad)


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
