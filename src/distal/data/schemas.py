"""From the columns that users have to one record: a prompt, its completions, and which are desirable."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from distal.data.files import describe_json_type
from distal.data.reasons import RowProblem
from distal.errors import DataError
from distal.types import DataKind

__all__ = ["COLUMNS", "Conversation", "Preference", "Schema", "Text", "detect_schema"]

Conversation: TypeAlias = list[dict[str, Any]]
"""Messages with `role` and `content`, both strings, and whatever else a chat template may read."""

Text: TypeAlias = "str | Conversation"

COLUMNS = frozenset({"prompt", "chosen", "rejected", "completion", "label"})
"""The columns that are read; all others are ignored."""

ANSWER_MARK = "\n\nAssistant:"
"""What precedes every answer in a transcript of the HH-RLHF kind."""

USER_MARK = "\n\nHuman:"
"""What precedes every question in such a transcript."""

_NOT_USED = {
    "ref_chosen_logps": "cached reference scores are not used; they are computed anew",
    "ref_rejected_logps": "cached reference scores are not used; they are computed anew",
    "ref_logps": "cached reference scores are not used; they are computed anew",
    "tools": "tools are not passed to the chat template",
    "chat_template_kwargs": "options per row are not passed to the chat template",
    "image": "only text is used",
    "images": "only text is used",
}
_USE_STRINGS = "give a string, or a list of messages with role and content"


@dataclass(frozen=True, slots=True)
class Preference:
    """One row, whatever columns it came from.

    Attributes:
        prompt: a string, or the messages before the answer.
        completions: (chosen, rejected) when paired, the one completion when unpaired; of the same kind as the
            prompt.
        desirable: for each completion, whether it is chosen or liked.
    """

    prompt: Text
    completions: tuple[Text, ...]
    desirable: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """How the rows of a data set are read.

    Attributes:
        kind: paired or unpaired.
        read: one row to a `Preference`; raises `RowProblem` for a row that is not usable.
        notes: remarks about columns that are there and not used.
    """

    kind: DataKind
    read: Callable[[Mapping[str, Any]], Preference]
    notes: tuple[str, ...] = ()


def detect_schema(columns: Collection[str], name: str) -> Schema:
    """Tell from the columns how rows are to be read.

    Args:
        columns: names of all columns of the data set.
        name: the data set, for messages.

    Raises:
        DataError: the columns are those of no schema, or of two.

    Example:
        >>> detect_schema(["prompt", "completion", "label"], "rows").kind
        'unpaired'
    """
    found = set(columns)
    paired = {"chosen", "rejected"} <= found
    unpaired = {"prompt", "completion", "label"} <= found
    if paired and unpaired:
        raise DataError(
            f"{name}: the columns {sorted(found & COLUMNS)} fit both paired and unpaired data; remove "
            f"chosen and rejected, or completion and label"
        )
    notes = tuple(f"column {column}: {remark}" for column, remark in _NOT_USED.items() if column in found)
    if paired:
        return Schema("paired", _read_explicit if "prompt" in found else _read_implicit, notes)
    if unpaired:
        return Schema("unpaired", _read_unpaired, notes)
    raise DataError(
        f"{name}: wrong columns; found {', '.join(sorted(map(str, found))) or 'none'}; expected prompt, "
        f"chosen, rejected (paired), chosen, rejected (paired, the prompt being their shared beginning), or "
        f"prompt, completion, label (unpaired); rename the columns"
    )


def _read_unpaired(row: Mapping[str, Any]) -> Preference:
    prompt, completion = _text(row, "prompt"), _text(row, "completion")
    label = _label(row)
    if isinstance(prompt, str) and not isinstance(completion, str):
        prompt, completion = _prompt_beside_messages(prompt, completion)
    _check_same_form(prompt, completion, "completion")
    return _checked(Preference(prompt, (completion,), (label,)))


def _read_explicit(row: Mapping[str, Any]) -> Preference:
    prompt, chosen, rejected = (_text(row, column) for column in ("prompt", "chosen", "rejected"))
    if isinstance(prompt, str) and not isinstance(chosen, str) and not isinstance(rejected, str):
        # Some sets keep the first question as a string beside two whole conversations that repeat it.
        shared = _shared_messages(chosen, rejected)
        if shared:
            prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        else:
            prompt = [{"role": "user", "content": prompt}]
    _check_same_form(prompt, chosen, "chosen")
    _check_same_form(prompt, rejected, "rejected")
    sides = tuple(_without_prompt(prompt, side) for side in (chosen, rejected))
    return _checked(Preference(prompt, sides, (True, False)))


def _read_implicit(row: Mapping[str, Any]) -> Preference:
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    _check_same_form(chosen, rejected, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _shared_transcript(chosen, rejected)
    else:
        cut = _shared_messages(cast(Conversation, chosen), cast(Conversation, rejected))
        if cut == 0:
            raise RowProblem(
                "no_shared_prompt",
                "chosen and rejected share no message that an assistant's message follows on both sides",
                "add a prompt column",
            )
    return _checked(Preference(chosen[:cut], (chosen[cut:], rejected[cut:]), (True, False)))


def _shared_transcript(chosen: str, rejected: str) -> int:
    """Where the prompt of two transcripts ends: behind the last answer mark inside their shared beginning.

    Cutting each side at its own last mark would give two prompts where one answer has further turns.
    """
    shared = os.path.commonprefix([chosen, rejected])
    mark = shared.rfind(ANSWER_MARK)
    if mark < 0:
        raise RowProblem(
            "no_shared_prompt",
            f"the shared beginning of chosen and rejected, {shared[:60]!r}, holds no {ANSWER_MARK!r}",
            "add a prompt column, or give transcripts of Human and Assistant turns",
        )
    return mark + len(ANSWER_MARK)


def _shared_messages(chosen: Conversation, rejected: Conversation) -> int:
    """Length of the prompt of two conversations: the longest shared beginning that answers follow."""
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        shared += 1
    while shared > 0 and not (_answers(chosen, shared) and _answers(rejected, shared)):
        shared -= 1
    return shared


def _answers(conversation: Conversation, index: int) -> bool:
    return index < len(conversation) and conversation[index]["role"] == "assistant"


def _prompt_beside_messages(prompt: str, completion: Conversation) -> tuple[Conversation, Conversation]:
    """Turn a prompt string into a message, unless the conversation repeats it as its own beginning."""
    message = {"role": "user", "content": prompt}
    first_answer = next((i for i, turn in enumerate(completion) if turn["role"] == "assistant"), 0)
    if message in completion[:first_answer]:
        return completion[:first_answer], completion[first_answer:]
    return [message], completion


def _without_prompt(prompt: Text, completion: Text) -> Text:
    """Drop the prompt's messages from a conversation that repeats them."""
    if isinstance(prompt, list) and prompt and completion[: len(prompt)] == prompt:
        return completion[len(prompt) :]
    return completion


def _checked(row: Preference) -> Preference:
    names = ("chosen", "rejected") if len(row.completions) == 2 else ("completion",)
    for name, completion in zip(names, row.completions, strict=True):
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
    return not any(turn["content"].strip() for turn in completion if turn["role"] == "assistant")


def _text(row: Mapping[str, Any], column: str) -> Text:
    """The string or the messages of a column, checked."""
    if column not in row:
        raise RowProblem(
            "bad_type", f"column {column} is absent; found {', '.join(map(str, row))}", _USE_STRINGS
        )
    value = row[column]
    if isinstance(value, str):
        return _encodable(value, column)
    if isinstance(value, list):
        return [_message(turn, f"{column}[{index}]") for index, turn in enumerate(cast(list[Any], value))]
    raise RowProblem("bad_type", f"column {column} is {describe_json_type(value)}", _USE_STRINGS)


def _message(turn: object, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise RowProblem("bad_type", f"{where} is {describe_json_type(turn)}, not a message", _USE_STRINGS)
    # Arrow fills keys that only some messages have with null.
    message = {str(key): value for key, value in cast(Mapping[Any, Any], turn).items() if value is not None}
    for key in ("role", "content"):
        value = message.get(key)
        if not isinstance(value, str):
            found = describe_json_type(value) if key in message else f"absent from keys {sorted(message)}"
            raise RowProblem("bad_type", f"{where}.{key} is {found}, not a string", _USE_STRINGS)
        _encodable(value, f"{where}.{key}")
    return message


def _encodable(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem(
            "bad_type",
            f"{where} holds half a surrogate pair at character {error.start}, which is no Unicode text",
            "mend the escape in the file",
        ) from error
    return text


def _check_same_form(first: Text, second: Text, column: str) -> None:
    if isinstance(first, str) != isinstance(second, str):
        raise RowProblem(
            "bad_type",
            f"column {column} mixes strings with messages of another column",
            "use one form in all columns",
        )


def _label(row: Mapping[str, Any]) -> bool:
    value = row.get("label")
    # True == 1. Floats, strings and null are refused rather than guessed at.
    if isinstance(value, (int, np.integer, np.bool_)) and value in (0, 1):
        return bool(value)
    found = describe_json_type(value) if "label" in row else "absent"
    raise RowProblem("bad_label", f"label is {found}", "use true or false (1 or 0)")


def has_user_turn(completion: Text) -> bool:
    r"""Whether a completion holds a further turn of the user, as message or as mark in a transcript.

    Example:
        >>> (
        ...     has_user_turn(" Yes.\n\nHuman: Thanks."),
        ...     has_user_turn([{"role": "assistant", "content": "Yes."}]),
        ... )
        (True, False)
    """
    if isinstance(completion, str):
        return USER_MARK in completion
    return any(turn["role"] == "user" for turn in completion)
