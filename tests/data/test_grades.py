"""Preferences from grades, held to brute force over all pairs and to what must hold of any choice."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.data import FORMATS, GradeOptions, ReadOptions, open_preferences
from distal.data.grades import liked_answers, paired_answers, threshold_of
from distal.data.grading import graded_preferences
from distal.data.reasons import RowProblem
from distal.data.schemas import Preference
from distal.errors import ConfigError, DataError

ANSWERS = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), max_size=14)
"""(prompt, grade): few values, so that ties abound."""

MARGINS = st.sampled_from([0.0, 1.0, 1.5, 2.0, 10.0])


def arrays(answers: list[tuple[int, int]]) -> tuple[Any, Any]:
    numbers: dict[int, int] = {}
    groups = [numbers.setdefault(prompt, len(numbers)) for prompt, _ in answers]
    return np.array([float(grade) for _, grade in answers]), np.array(groups, dtype=np.int64)


def all_pairs(answers: list[tuple[int, int]], margin: float) -> set[tuple[int, int]]:
    """Every pair that may be made, by trying all."""
    n = range(len(answers))
    return {
        (i, j)
        for i in n
        for j in n
        if answers[i][0] == answers[j][0] and answers[i][1] - answers[j][1] > 0
        if answers[i][1] - answers[j][1] >= margin
    }


@given(ANSWERS, MARGINS)
def test_all_pairs_are_those_that_trying_all_finds(answers: list[tuple[int, int]], margin: float) -> None:
    made = paired_answers(*arrays(answers), "all_pairs", margin=margin)
    pairs = list(zip(made.better.tolist(), made.worse.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == all_pairs(answers, margin)


@given(ANSWERS, MARGINS, st.sampled_from(["best_worst", "best_random"]), st.integers(0, 9))
def test_one_pair_per_prompt(answers: list[tuple[int, int]], margin: float, method: Any, seed: int) -> None:
    made = paired_answers(*arrays(answers), method, margin=margin, seed=seed)
    possible = all_pairs(answers, margin)
    prompts: list[int] = []
    for better, worse in zip(made.better.tolist(), made.worse.tolist(), strict=True):
        prompt = answers[better][0]
        grades = [grade for other, grade in answers if other == prompt]
        assert (better, worse) in possible
        assert answers[better][1] == max(grades)
        assert method == "best_random" or answers[worse][1] == min(grades)
        prompts.append(prompt)
    assert sorted(prompts) == sorted({answers[better][0] for better, _ in possible})


@given(ANSWERS, MARGINS, st.sampled_from(["best_worst", "best_random", "all_pairs"]))
def test_every_answer_is_in_a_pair_or_accounted_for(
    answers: list[tuple[int, int]], margin: float, method: Any
) -> None:
    made = paired_answers(*arrays(answers), method, margin=margin)
    used = {*made.better.tolist(), *made.worse.tolist()}
    fates = [made.no_partner.tolist(), made.no_difference.tolist(), made.not_paired.tolist()]
    assert sorted([*used, *(answer for fate in fates for answer in fate)]) == list(range(len(answers)))
    for answer in fates[0]:
        assert [prompt for prompt, _ in answers].count(answers[answer][0]) == 1


@given(ANSWERS.filter(bool), st.sampled_from(["drop", "liked", "disliked"]), st.booleans())
def test_thresholds_are_medians(answers: list[tuple[int, int]], ties: Any, by_prompt: bool) -> None:
    grades, groups = arrays(answers)
    thresholds = threshold_of(grades, groups, "prompt_median" if by_prompt else "median")
    at = {"drop": -1, "liked": 1, "disliked": 0}[ties]
    expected: list[int] = []
    for i, (prompt, grade) in enumerate(answers):
        middle = median([g for p, g in answers if p == prompt or not by_prompt])
        assert thresholds[i] == middle
        expected.append(1 if grade > middle else 0 if grade < middle else at)
    assert liked_answers(grades, thresholds, ties).tolist() == expected


def test_a_random_partner_depends_on_the_seed_alone() -> None:
    grades, groups = np.array([5.0, 1, 2, 3, 4] * 30), np.repeat(np.arange(30), 5)
    one, again, other = (paired_answers(grades, groups, "best_random", seed=seed) for seed in (0, 0, 1))
    assert one.worse.tolist() == again.worse.tolist() != other.worse.tolist()
    # All partners come up, about equally often: 30 draws of 4.
    counts = np.bincount(one.worse % 5, minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() >= 2


ROWS = [
    {"prompt": prompt, "response": f"{prompt}{i}", "score": score}
    for i, scores in enumerate([(1, 4), (3, 4), (5, 9)])
    for prompt, score in zip("ab", scores, strict=True)
]
"""a: 1, 3, 5 and b: 4, 4, 9, one after the other."""


def made_of(rows: list[dict[str, Any]], **options: Any) -> list[Any]:
    source = open_preferences(rows, ReadOptions(grades=GradeOptions(**options)))
    return [
        made.reason if isinstance(made, RowProblem) else (*made.completions, *made.desirable)
        for _, made in source
    ]


def test_liked_and_disliked_answers() -> None:
    tie = "grade_at_threshold"
    assert made_of(ROWS) == [("a0", False), tie, ("a1", False), tie, ("a2", True), ("b2", True)]
    assert made_of(ROWS, ties="liked")[1] == ("b0", True)
    assert made_of(ROWS, threshold="prompt_median") == [
        ("a0", False),
        tie,
        tie,
        tie,
        ("a2", True),
        ("b2", True),
    ]
    assert made_of(ROWS, threshold=5, ties="disliked").count(tie) == 0
    assert [row[-1] for row in made_of(ROWS, grades={"score": -1.0}, threshold=-4.5)] == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]


def test_pairs_come_as_soon_as_both_answers_have_passed() -> None:
    assert made_of(ROWS, method="best_worst") == [
        "not_paired",
        "not_paired",
        ("a2", "a0", True, False),
        ("b2", "b0", True, False),
    ]
    assert set(made_of(ROWS, method="all_pairs", margin=3)) == {
        ("a2", "a0", True, False),
        ("b2", "b0", True, False),
        ("b2", "b1", True, False),
        "not_paired",
    }
    assert (
        made_of([*ROWS, {"prompt": "c", "response": "x", "score": 1}], method="all_pairs")[-1] == "no_partner"
    )
    assert made_of(ROWS, method="all_pairs", margin=9) == ["no_difference"] * 6


@pytest.mark.parametrize("method", ["best_worst", "best_random", "all_pairs"])
def test_answers_to_no_prompt_have_nothing_in_common(method: str) -> None:
    silent = [{"role": "user", "content": " "}]
    rows = [{"prompt": " ", "response": f"review {i}", "score": i} for i in range(4)]
    chats = [
        {"prompt": silent, "response": [{"role": "assistant", "content": str(i)}], "score": i}
        for i in range(4)
    ]
    assert made_of(rows, method=method) == ["no_partner"] * 4
    assert made_of(chats, method=method) == ["no_partner"] * 4
    assert made_of([rows[0], *ROWS, rows[1]], method="best_worst") == [
        "no_partner",
        *made_of(ROWS, method="best_worst"),
        "no_partner",
    ]


def test_many_answers_to_one_prompt_are_paired_in_parts() -> None:
    grades = np.random.default_rng(0).permutation(np.repeat(np.arange(1100.0), 2))
    made = paired_answers(grades, np.zeros(2200, dtype=np.int64), "all_pairs")
    better, worse = np.nonzero(grades[:, None] > grades[None, :])
    assert made.better.tolist() == better.tolist()
    assert made.worse.tolist() == worse.tolist()
    assert made.not_paired.size == made.no_difference.size == 0


def test_equal_texts_make_no_pair() -> None:
    rows = [{"prompt": "a", "response": "same", "score": score} for score in (1, 2)]
    assert made_of(rows, method="all_pairs") == ["chosen_equals_rejected"]


@given(
    ANSWERS.filter(bool), MARGINS, st.sampled_from(["threshold", "best_worst", "best_random", "all_pairs"])
)
def test_the_stream_makes_what_the_arrays_say(
    answers: list[tuple[int, int]], margin: float, method: Any
) -> None:
    rows = [
        {"prompt": str(prompt), "completion": f"answer {i}", "score": grade}
        for i, (prompt, grade) in enumerate(answers)
    ]
    options = GradeOptions(method=method, margin=0.0 if method == "threshold" else margin)
    made = [
        item
        for _, item in graded_preferences(lambda: iter(rows), FORMATS["graded"], options, "rows")
        if isinstance(item, Preference)
    ]
    grades, groups = arrays(answers)
    texts = [row["completion"] for row in rows]
    if method == "threshold":
        labels = liked_answers(grades, threshold_of(grades, groups, "median"))
        expected = [
            ((text,), (bool(liked),)) for text, liked in zip(texts, labels, strict=True) if liked >= 0
        ]
    else:
        pairs = paired_answers(grades, groups, method, margin=margin)
        expected = [
            ((texts[better], texts[worse]), (True, False))
            for better, worse in zip(pairs.better, pairs.worse, strict=True)
        ]
    assert sorted((item.completions, item.desirable) for item in made) == sorted(expected)


def test_weights_are_differences_over_their_mean() -> None:
    def weights(**options: Any) -> list[float]:
        source = open_preferences(ROWS, ReadOptions(grades=GradeOptions(weights=True, **options)))
        return [made.weight for _, made in source if isinstance(made, Preference) and made.weight is not None]

    assert weights(method="best_worst") == pytest.approx([4 / 4.5, 5 / 4.5])
    assert weights() == pytest.approx([3 / 2.5, 1 / 2.5, 1 / 2.5, 5 / 2.5])


def test_a_sum_over_attributes_some_of_which_are_missing() -> None:
    def rating(value: str) -> dict[str, str]:
        return {"Rating": value, "Rationale": ""}

    annotations = [
        {"honesty": rating("5"), "helpfulness": rating("1")},
        {"honesty": rating("4"), "helpfulness": rating("N/A")},
        {"honesty": rating("1"), "helpfulness": rating("2")},
        {"truthfulness": rating("5")},
    ]
    completions = [{"response": str(i), "annotations": given} for i, given in enumerate(annotations)]
    rows = [{"instruction": "p", "completions": completions}]
    # 2 honesty - helpfulness: 9, 4 * 2 * 3/2 = 12, 0 and none: what is missing counts as the mean of the others.
    made = made_of(rows, method="all_pairs", grades={"honesty": 2.0, "helpfulness": -1.0})
    pairs = [("0", "2", True, False), ("1", "0", True, False), ("1", "2", True, False)]
    assert sorted(map(str, made)) == sorted(map(str, ["no_grade", *pairs]))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"method": "median"}, "from_grades='median': expected one of threshold, best_worst"),
        ({"ties": "random"}, "grade_ties='random'"),
        ({"threshold": "mean"}, "grade_threshold='mean': expected median, prompt_median or a number"),
        ({"margin": -1.0, "method": "all_pairs"}, "grade_margin=-1.0"),
        ({"margin": 1.0}, "grade_margin has no effect with from_grades=threshold"),
        ({"ties": "liked", "method": "best_worst"}, "grade_ties has no effect"),
        ({"threshold": 3.0, "method": "best_worst"}, "grade_threshold has no effect"),
        ({"grades": {}}, "give at least one attribute a weight"),
        (
            {"weights": True, "ties": "liked"},
            "grade_ties=liked with grade_weights: the weight is the distance",
        ),
        ({"weights": True, "ties": "disliked", "threshold": 3.0}, "which is 0 for ties; leave one"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part.replace(".", r"\.")):
        GradeOptions(**options)


def test_attributes_that_are_not_there_are_named() -> None:
    with pytest.raises(DataError, match=r"no answer is graded by quality; .* were found: score; name some"):
        made_of(ROWS, grades={"quality": 1.0})


def test_options_about_grades_need_grades() -> None:
    with pytest.raises(ConfigError, match="no effect on the format paired, which is paired"):
        made_of([{"prompt": "p", "chosen": "a", "rejected": "b"}])
