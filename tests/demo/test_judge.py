from __future__ import annotations

import random

import pytest
import torch

from distal.demo.judge import train_judge
from distal.demo.snippets import Snippet
from distal.errors import DataError


@pytest.fixture(scope="module")
def judge(split):
    return train_judge(split.train[:4000])


def test_judge_is_much_better_than_chance_on_held_out_snippets(judge, split):
    # 1,000 fair coins give 0.60 with probability below 1e-9.
    assert 0.68 < judge.accuracy(split.held_out) < 0.9


def test_judge_with_shuffled_labels_is_at_chance_on_held_out_snippets(split):
    """What it knows of held-out snippets comes from the labels alone: nothing leaks."""
    part = split.train[:3000]
    labels = [snippet.liked for snippet in part]
    random.Random(0).shuffle(labels)
    shuffled = [Snippet(snippet.text, liked) for snippet, liked in zip(part, labels, strict=True)]
    assert abs(train_judge(shuffled).accuracy(split.held_out) - 0.5) < 0.06


def test_judge_knows_good_words_from_bad(judge):
    assert judge.share_liked(["a witty and touching film .", "moving , funny and beautiful ."]) == 1.0
    assert judge.share_liked(["a dull and boring mess .", "too bad , too long ."]) == 0.0


def test_judge_is_nearly_balanced(judge, split):
    share = judge.share_liked([snippet.text for snippet in split.held_out])
    assert 0.4 < share < 0.6


def test_training_repeats(split):
    first, second = train_judge(split.train[:500]), train_judge(split.train[:500])
    assert first.index == second.index
    assert torch.equal(first.weights, second.weights)


def test_weights_are_at_the_minimum_of_the_penalised_loss():
    """Against a closed form: one feature, no overlap; by symmetry the bias is 0 and the two weights opposite."""
    snippets = [Snippet("good", True), Snippet("bad", False)] * 3
    judge = train_judge(snippets, penalty=0.1, steps=100)
    bias, good, bad = (judge.weights[i].item() for i in (0, judge.index["good"], judge.index["bad"]))
    assert bias == pytest.approx(0, abs=1e-5)
    assert good == pytest.approx(-bad, abs=1e-5)
    # Minimise log(1 + exp(-w / sqrt 2)) + 0.1 * 2 w^2: 0.4 w = sigmoid(-w / sqrt 2) / sqrt 2.
    score = torch.tensor(-good / 2**0.5).sigmoid().item() / 2**0.5
    assert 0.4 * good == pytest.approx(score, abs=1e-4)


def test_one_label_is_refused():
    with pytest.raises(DataError, match="liked and disliked"):
        train_judge([Snippet("good", True)])
