"""What to do with rows longer than `max_length`: nothing is cut silently, and both sides keep one prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from distal.data.reasons import RowProblem
from distal.data.tokenization import Encoding
from distal.errors import ConfigError

__all__ = ["TRUNCATIONS", "Truncation", "fit"]

Truncation = Literal["drop", "error", "truncate_prompt", "truncate_completion"]

_REMEDY = "raise max_length, or choose truncation='truncate_prompt' or 'truncate_completion'"

Sides = list[Encoding]


def fit(
    sides: Sequence[Encoding], max_length: int | None, truncation: Truncation
) -> tuple[Sides, str | None]:
    """Fit the rows of one unit into `max_length` tokens, prompt and completion together.

    Args:
        sides: chosen and rejected, or the one completion, with its prompt.
        max_length: tokens that a row may have; None for no limit.
        truncation: "drop" and "error" refuse the unit; "truncate_prompt" keeps the end of the prompt (and the
            special tokens in front of it), from the same token on both sides; "truncate_completion" keeps the
            beginning of the completion, which then has no end-of-text token.

    Returns:
        The rows that fit, and a remark (a key of `distal.data.reasons.NOTED`) if anything was cut.

    Raises:
        RowProblem: the unit does not fit and is not to be cut, or cutting leaves nothing.

    Examples:
        >>> long = Encoding(prompt=[0, 5, 6, 7], completion=[8, 9], n_start=1)
        >>> rows, remark = fit([long], 4, "truncate_prompt")
        >>> rows[0].prompt, rows[0].completion, remark
        ([0, 7], [8, 9], 'truncated_prompt')
    """
    if max_length is None or all(len(side.prompt) + len(side.completion) <= max_length for side in sides):
        return list(sides), None
    cut = TRUNCATIONS[truncation](sides, max_length)
    if len(cut) == 2 and (cut[0].prompt, cut[0].completion) == (cut[1].prompt, cut[1].completion):
        raise RowProblem(
            "equal_after_truncation", f"the sides are equal up to token {max_length}", "raise max_length"
        )
    return cut, truncation.replace("truncate", "truncated")


def _refuse(sides: Sequence[Encoding], max_length: int) -> Sides:
    _check_prompt(sides, max_length)
    longest = max(len(side.prompt) + len(side.completion) for side in sides)
    raise RowProblem("too_long", f"{longest} tokens are more than max_length={max_length}", _REMEDY)


def _cut_prompt(sides: Sequence[Encoding], max_length: int) -> Sides:
    room = max_length - max(len(side.completion) for side in sides)
    if room < 1:
        raise RowProblem(
            "completion_too_long",
            f"a completion of {max_length - room} tokens leaves no room for the prompt in "
            f"max_length={max_length}",
            "raise max_length",
        )
    # Tokens are counted from the front, once for both sides: where one of them merges the end of the prompt with its
    # completion, counting from the end would not begin at the same token.
    n_gone = max(len(side.prompt) + len(side.completion) for side in sides) - max_length
    bodies = [side.prompt[side.n_start :] for side in sides]
    bodies = [body[min(n_gone, max(0, len(body) - 1)) :] for body in bodies]
    n_left = min(
        max_length - len(side.completion) - len(body) for side, body in zip(sides, bodies, strict=True)
    )
    return [
        # What is merged away altogether leaves special tokens alone.
        replace(side, prompt=side.prompt[: min(side.n_start, n_left if body else max(1, n_left))] + body)
        for side, body in zip(sides, bodies, strict=True)
    ]


def _cut_completion(sides: Sequence[Encoding], max_length: int) -> Sides:
    _check_prompt(sides, max_length)
    cut: Sides = []
    for side in sides:
        room = max_length - len(side.prompt)
        mask = None if side.mask is None else side.mask[:room]
        if mask is not None and not any(mask):
            raise RowProblem(
                "nothing_scored",
                f"of a completion, nothing that is scored lies within max_length={max_length}",
                "raise max_length",
            )
        cut.append(replace(side, completion=side.completion[:room], mask=mask))
    return cut


def _check_prompt(sides: Sequence[Encoding], max_length: int) -> None:
    longest = max(len(side.prompt) for side in sides)
    if longest >= max_length:
        raise RowProblem(
            "prompt_too_long",
            f"a prompt of {longest} tokens leaves no room for a completion in max_length={max_length}",
            "raise max_length, or choose truncation='truncate_prompt'",
        )


TRUNCATIONS: dict[str, Callable[[Sequence[Encoding], int], Sides]] = {
    "drop": _refuse,
    "error": _refuse,
    "truncate_prompt": _cut_prompt,
    "truncate_completion": _cut_completion,
}
"""Policy -> what it makes of rows that are too long."""


def check_truncation(truncation: str) -> None:
    """Raise `ConfigError` for a policy that does not exist."""
    if truncation not in TRUNCATIONS:
        raise ConfigError(f"truncation={truncation!r}: expected one of {', '.join(TRUNCATIONS)}")
