"""The records that every format is read into: a preference, and an answer with its grades."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from distal.data.reasons import RowProblem

__all__ = ["Answer", "Conversation", "Preference", "Text", "as_conversation", "checked", "has_other_turn"]

Conversation: TypeAlias = list[dict[str, Any]]
"""Messages with `role` and `content`, both strings, and whatever else a chat template may read."""

Text: TypeAlias = "str | Conversation"

ANSWER_MARK = "\n\nAssistant:"
"""What precedes every answer in a transcript of the HH-RLHF kind."""

USER_MARK = "\n\nHuman:"
"""What precedes every question in such a transcript."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One preference, whatever columns it came from.

    Attributes:
        prompt: a string, or the messages before the answer.
        completions: (chosen, rejected) when paired, the one completion when unpaired; of the same kind as the
            prompt.
        desirable: for each completion, whether it is chosen or liked.
        tools: descriptions of the tools that the chat template shows the model, as JSON schemas.
        template_options: further arguments of the chat template for this row.
        weight: how much the preference counts, by the difference of its grades; None where there are none.
        remarks: keys of `distal.data.reasons.NOTED` that hold for it.
    """

    prompt: Text
    completions: tuple[Text, ...]
    desirable: tuple[bool, ...]
    tools: Sequence[Any] | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    weight: float | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One graded answer; preferences are made of many of them (`distal.data.grading`).

    Attributes:
        prompt: a string, or the messages before the answer.
        completion: the answer, of the same kind.
        grades: attribute -> grade; attributes that were not graded are absent.
    """

    prompt: Text
    completion: Text
    grades: Mapping[str, float]


def checked(row: Preference) -> Preference:
    """The preference itself, if a model could learn from it.

    Raises:
        RowProblem: strings beside messages, an empty completion, one that the assistant does not begin and end,
            or a pair of equal sides.
    """
    names = ("chosen", "rejected") if len(row.completions) == 2 else ("completion",)
    for name, completion in zip(names, row.completions, strict=True):
        if isinstance(row.prompt, str) != isinstance(completion, str):
            raise RowProblem(
                "bad_type",
                f"column {name} mixes strings with messages of another column",
                "use one form in all columns",
            )
        _check_roles(completion, name)
        if _is_empty(completion):
            raise RowProblem(
                "empty_completion", f"{name} has no text behind the prompt", "remove or mend the row"
            )
    if len(row.completions) == 2 and row.completions[0] == row.completions[1]:
        raise RowProblem("chosen_equals_rejected", "both sides are the same text", "remove or mend the row")
    return row


def _check_roles(completion: Text, name: str) -> None:
    """An answer begins and ends with the assistant, or the chat template would not mark it as one."""
    roles = [turn["role"] for turn in completion] if isinstance(completion, list) else []
    if roles and (roles[0] != "assistant" or roles[-1] != "assistant"):
        raise RowProblem(
            "bad_type",
            f"{name} has the roles {', '.join(roles)} behind the prompt, and should begin and end with "
            f"assistant",
            "move what the model reads into the prompt, and call the model's role assistant",
        )


def _is_empty(completion: Text) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    return not any(
        turn["content"].strip() or turn.get("tool_calls")
        for turn in completion
        if turn["role"] == "assistant"
    )


def has_other_turn(completion: Text) -> bool:
    r"""Whether a completion holds a turn of the user or of a tool, as message or as mark in a transcript.

    Examples:
        >>> (
        ...     has_other_turn(" Yes.\n\nHuman: Thanks."),
        ...     has_other_turn([{"role": "assistant", "content": "Yes."}]),
        ... )
        (True, False)
    """
    if isinstance(completion, str):
        return USER_MARK in completion
    return any(turn["role"] != "assistant" for turn in completion)


def as_conversation(row: Preference, turns: Callable[[str], Conversation]) -> Preference:
    """Plain texts as messages, so that a chat template writes them; messages stay what they are.

    Args:
        row: a preference.
        turns: cuts a prompt string into messages.

    Examples:
        >>> one = Preference("Hi", ("Hello",), (True,))
        >>> as_conversation(one, lambda text: [{"role": "user", "content": text}]).completions
        ([{'role': 'assistant', 'content': 'Hello'}],)
    """
    if not isinstance(row.prompt, str):
        return row
    completions: list[Text] = []
    for text in row.completions:
        own = str(text).strip()
        # What a transcript's answer runs on to are turns as well.
        completions.append(
            turns(f"{ANSWER_MARK} {own}") if USER_MARK in own else [{"role": "assistant", "content": own}]
        )
    return checked(replace(row, prompt=turns(row.prompt), completions=tuple(completions)))
