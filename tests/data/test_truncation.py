"""Every truncation policy on rows whose tokens can be counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distal.data.reasons import RowProblem
from distal.data.tokenization import Encoding
from distal.data.truncation import TRUNCATIONS, Truncation, check_truncation, fit
from distal.errors import ConfigError

CHOSEN = Encoding([0, 11, 12, 13], [21, 22, 23, 2], 1)
REJECTED = Encoding([0, 11, 12, 13], [31, 2], 1)


def reason(sides: list[Encoding], max_length: int, truncation: Truncation) -> str:
    with pytest.raises(RowProblem) as caught:
        fit(sides, max_length, truncation)
    return caught.value.reason


@pytest.mark.parametrize("truncation", list(TRUNCATIONS))
@pytest.mark.parametrize("max_length", [8, None])
def test_rows_that_fit_are_left_alone(truncation: Truncation, max_length: int | None) -> None:
    assert fit([CHOSEN, REJECTED], max_length, truncation) == ([CHOSEN, REJECTED], None)


@pytest.mark.parametrize("truncation", ["drop", "error"])
def test_a_pair_is_refused_when_either_side_is_too_long(truncation: Truncation) -> None:
    assert reason([CHOSEN, REJECTED], 7, truncation) == "too_long"
    assert reason([REJECTED, CHOSEN], 5, truncation) == "too_long"
    assert reason([CHOSEN, REJECTED], 4, truncation) == "prompt_too_long"


def test_both_sides_keep_the_same_end_of_the_prompt() -> None:
    (chosen, rejected), remark = fit([CHOSEN, REJECTED], 6, "truncate_prompt")
    assert remark == "truncated_prompt"
    assert chosen.prompt == rejected.prompt == [0, 13]
    assert (chosen.completion, rejected.completion) == (CHOSEN.completion, REJECTED.completion)
    (chosen, _), _ = fit([CHOSEN, REJECTED], 5, "truncate_prompt")
    assert chosen.prompt == [13]  # room for one token only: the last of the text rather than the special one
    assert reason([CHOSEN, REJECTED], 4, "truncate_prompt") == "completion_too_long"


def test_a_side_that_merges_its_end_keeps_the_same_beginning() -> None:
    # "... 14" joins with what follows on one side only, where the completion holds both.
    chosen, rejected = Encoding([0, 11, 12, 13, 14], [21, 2], 1), Encoding([0, 11, 12, 13], [34, 35, 2], 1)
    for max_length, n_gone in ((6, 1), (5, 2)):
        cut, remark = fit([chosen, rejected], max_length, "truncate_prompt")
        assert [side.prompt for side in cut] == [
            [0, *side.prompt[1 + n_gone :]] for side in (chosen, rejected)
        ]
        assert [side.completion for side in cut] == [chosen.completion, rejected.completion]
        assert remark == "truncated_prompt"
    (chosen, rejected), _ = fit(
        [chosen, Encoding([0], [31, 32, 33, 2], 1, merged=True)], 5, "truncate_prompt"
    )
    assert (chosen.prompt, rejected.prompt) == ([0, 13, 14], [0])


def test_completions_keep_their_beginning() -> None:
    (chosen, rejected), remark = fit([CHOSEN, REJECTED], 5, "truncate_completion")
    assert remark == "truncated_completion"
    assert (chosen.prompt, chosen.completion) == (CHOSEN.prompt, [21])
    assert rejected.completion == [31]
    assert reason([CHOSEN, REJECTED], 4, "truncate_completion") == "prompt_too_long"


def test_sides_that_differ_behind_the_cut_only() -> None:
    other = Encoding(CHOSEN.prompt, [21, 22, 99, 2], 1)
    assert reason([CHOSEN, other], 6, "truncate_completion") == "equal_after_truncation"


def test_unknown_policy() -> None:
    with pytest.raises(
        ConfigError, match="truncation='middle': expected one of drop, error, truncate_prompt"
    ):
        check_truncation("middle")


@given(
    n_start=st.integers(0, 2),
    n_prompt=st.integers(1, 12),
    n_completions=st.lists(st.integers(1, 12), min_size=1, max_size=2),
    max_length=st.integers(2, 16),
    truncation=st.sampled_from(["truncate_prompt", "truncate_completion"]),
)
def test_what_is_cut_fits_and_is_a_part_of_what_was_there(
    n_start: int, n_prompt: int, n_completions: list[int], max_length: int, truncation: Truncation
) -> None:
    n_start = min(n_start, n_prompt)
    prompt = list(range(n_prompt))
    sides = [
        Encoding(prompt, [100 * (i + 1) + k for k in range(n)], n_start) for i, n in enumerate(n_completions)
    ]
    blocked = n_prompt if truncation == "truncate_completion" else max(n_completions)
    if blocked >= max_length and max_length < n_prompt + max(n_completions):
        with pytest.raises(RowProblem, match="leaves no room"):
            fit(sides, max_length, truncation)
        return
    cut, remark = fit(sides, max_length, truncation)
    assert (remark is None) == all(n_prompt + n <= max_length for n in n_completions)
    assert len({tuple(side.prompt) for side in cut}) == 1
    for before, after in zip(sides, cut, strict=True):
        assert len(after.prompt) >= 1
        assert len(after.completion) >= 1
        assert len(after.prompt) + len(after.completion) <= max_length
        assert before.completion[: len(after.completion)] == after.completion
        assert set(after.prompt) <= set(before.prompt)
        assert after.prompt[-1] == prompt[-1] or n_start == n_prompt
    if truncation == "truncate_prompt" and remark:
        assert (
            max(len(side.prompt) + len(side.completion) for side in cut) == max_length
        )  # nothing cut in vain
