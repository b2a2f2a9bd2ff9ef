"""Why a row is left out or changed: the fates that a report counts, and the exception that carries one."""

from __future__ import annotations

from typing import Self

__all__ = ["DROPPED", "LENGTH_REASONS", "NOTED", "RowProblem"]

DROPPED: dict[str, str] = {
    "bad_type": "a column is absent, null or of the wrong type",
    "bad_label": "label is neither true nor false",
    "bad_grade": "a grade is not a finite number",
    "repeated_key": "an object names a key twice",
    "bad_weight": "weight is not a positive number",
    "zero_weight": "its weight is 0, so that it would change nothing",
    "no_grade": "the answer has none of the grades that count",
    "no_preference": "the row holds no preference",
    "tie": "neither side is better",
    "grade_at_threshold": "the grade equals the threshold",
    "no_partner": "no other graded answer to the same prompt",
    "no_difference": "the grades of all answers to the prompt differ by less than the margin",
    "not_paired": "the answer is in no pair: others to the same prompt are better, or worse",
    "no_shared_prompt": "no prompt column, and the two sides share no beginning that could be one",
    "empty_completion": "a completion is empty",
    "chosen_equals_rejected": "chosen equals rejected",
    "template_refused": "the chat template refused the conversation",
    "too_long": "longer than max_length",
    "prompt_too_long": "the prompt leaves no room for one completion token within max_length",
    "completion_too_long": "the completion leaves no room for one prompt token within max_length",
    "nothing_scored": "no token of a completion is scored, by loss_on or by the cut at max_length",
    "equal_after_truncation": "chosen and rejected differ only behind the cut at max_length",
}
"""Reason for leaving a row out -> what it means."""

LENGTH_REASONS = frozenset({"too_long", "prompt_too_long", "completion_too_long"})
"""The reasons that the truncation policy answers for."""

NOTED: dict[str, str] = {
    "truncated_prompt": "the beginning of the prompt was cut off to fit max_length",
    "truncated_completion": "the end of the completion was cut off to fit max_length",
    "merged_boundary": "the tokenizer merges the end of the prompt with the completion; that token counts "
    "as completion",
    "cut_at_eos": "the completion ran on behind an end-of-text token; the rest was cut off",
    "end_added": "the chat template does not end the last turn; the end-of-text token was added",
    "user_turn_in_completion": "the completion holds a turn of the user or of a tool, which is scored with it",
    "other_turn_not_scored": "the completion holds a turn of the user or of a tool, which is read and not scored",
    "tied_grades": "both sides have the same score, and yet one is called better",
    "duplicate": "the row repeats an earlier one",
    "contradiction": "another row says the opposite of the same texts",
}
"""What is remarkable about a row that is kept -> what it means."""


class RowProblem(Exception):
    """One row cannot be used.

    Args:
        reason: a key of `DROPPED`.
        detail: what was found in the row, and what was expected instead.
        remedy: how to mend it.
    """

    def __init__(self, reason: str, detail: str, remedy: str) -> None:
        super().__init__(reason, detail, remedy)
        self.reason = reason
        self.detail = detail
        self.remedy = remedy
        self.line: int | None = None

    def at(self, line: int | None) -> Self:
        """The same problem, found on a line of the file, from 1; None where rows have no lines."""
        self.line = self.line or line
        return self

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.detail}; {self.remedy}"
