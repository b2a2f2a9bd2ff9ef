"""Every branch of the decision rule, with the sentence it yields."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from distal.evaluation import Decision, dominance_certificate
from distal.evaluation.statistics import FloatArray
from distal.evaluation.verdict import Evidence, decide, describe, format_interval, format_ratio


def _evidence(**changes: Any):
    values: dict[str, Any] = {
        "samples": 20,
        "violation_ratio": 0.01,
        "violation_ratio_ci": (0.0, 0.1),
        "undefined_reason": None,
        "gap_low": (0.1, 0.2),
        "confidence": 0.95,
        "threshold": 0.25,
    }
    return Evidence(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "decision", "words"),
    [
        ({}, "dominance", r"Dominance supported: good exceed bad at every level .* \(95 % band\)"),
        (
            {"gap_low": (0.0, 0.2)},
            "almost_dominance",
            "with 95 % confidence good exceed bad at 1 of 2 levels only",
        ),
        ({"violation_ratio_ci": (0.0, 0.25)}, "not_supported", "not wholly below the threshold 0.25"),
        ({"violation_ratio_ci": (0.76, 0.9)}, "not_supported", "rather, bad almost dominate good"),
        ({"samples": 19}, "not_supported", "19 samples on a side are too few to tell, 20 are needed"),
        ({"violation_ratio_ci": None}, "not_supported", "interval undefined"),
        (
            {"violation_ratio": None, "violation_ratio_ci": None, "undefined_reason": "all coincide"},
            "undefined",
            "Dominance undefined: all coincide, so the violation ratio is 0/0",
        ),
    ],
)
def test_rule(changes: dict[str, Any], decision: Decision, words: str):
    evidence = _evidence(**changes)
    assert decide(evidence) == decision
    sentence = describe(evidence, "good", "bad")
    assert re.search(words, sentence)
    assert sentence.endswith(".")


def test_rule_on_samples():
    generator = np.random.default_rng(0)
    v = generator.normal(0, 1, 400)

    def decision(u: FloatArray):
        return dominance_certificate(u, v, paired=True, resamples=200).decision

    assert decision(v + 3) == "dominance"
    assert decision(generator.normal(0.6, 1.3, 400)) == "almost_dominance"
    assert decision(generator.normal(0, 1, 400)) == "not_supported"
    assert decision(v[::-1]) == "undefined"


def test_two_clear_pairs_are_not_enough_for_a_verdict():
    c = dominance_certificate([5.0, 6.0], [1.0, 2.0], paired=True, resamples=50)
    assert c.violation_ratio == 0.0
    assert c.decision == "not_supported"
    assert c.notes == ("only 2 samples on a side: below 20, intervals are too narrow",)


def test_numbers_in_words():
    assert [format_ratio(x) for x in (0.0, 0.0004, 0.0005, 0.1234, 1.0, None)] == [
        "0",
        "<0.001",
        "0.001",
        "0.123",
        "1.000",
        "undefined",
    ]
    assert format_interval((0.0001, 0.5)) == "[<0.001, 0.500]"
    assert format_interval(None) == "undefined"
