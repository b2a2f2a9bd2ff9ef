"""Where the prompt ends, in rows that do not say so: what both sides share, or what precedes the last answer."""

from __future__ import annotations

import os.path
import re

from distal.data.reasons import RowProblem
from distal.data.schemas import ANSWER_MARK, USER_MARK, Conversation, Text

__all__ = [
    "prompt_beside_messages",
    "says",
    "shared_messages",
    "shared_transcript",
    "split_answer",
    "transcript_turns",
    "user_turn",
    "without_prompt",
]

_MARK = re.compile(f"{USER_MARK}|{ANSWER_MARK}")


def user_turn(prompt: str) -> Conversation:
    """A prompt string as one message of the user."""
    return [{"role": "user", "content": prompt}]


def transcript_turns(transcript: str) -> Conversation:
    r"""The turns of a transcript of the HH-RLHF kind; a text without marks is one turn of the user.

    An open mark at the end begins the answer, and is no turn.

    Examples:
        >>> transcript_turns("\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why\n\nAssistant:")[-1]
        {'role': 'user', 'content': 'Why'}
    """
    marks = list(_MARK.finditer(transcript))
    if not marks:
        return user_turn(transcript)
    turns: Conversation = []
    for mark, end in zip(marks, [*(found.start() for found in marks[1:]), len(transcript)], strict=True):
        role = "user" if mark[0] == USER_MARK else "assistant"
        content = transcript[mark.end() : end].strip()
        if turns and turns[-1]["role"] == role:
            # Templates want turns that alternate; a repeated mark is mostly part of the text.
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{content}".strip()
        elif content or role == "user":
            turns.append({"role": role, "content": content})
    return turns


def shared_transcript(chosen: str, rejected: str) -> int:
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


def shared_messages(chosen: Conversation, rejected: Conversation) -> int:
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


def split_answer(conversation: Conversation, column: str) -> tuple[Conversation, Conversation]:
    """A conversation as its prompt and its answer, which is the last message.

    Raises:
        RowProblem: the assistant does not speak last.
    """
    if not conversation or conversation[-1]["role"] != "assistant":
        last = conversation[-1]["role"] if conversation else "nobody"
        raise RowProblem(
            "bad_type",
            f"{column} ends with the role {last}, and should end with the assistant's answer",
            "add the answer, or remove the row",
        )
    return conversation[:-1], conversation[-1:]


def prompt_beside_messages(prompt: str, completion: Conversation) -> tuple[Conversation, Conversation]:
    """Turn a prompt string into a message, unless the conversation repeats it as its own beginning."""
    first_answer = next((i for i, turn in enumerate(completion) if turn["role"] == "assistant"), 0)
    if says(completion[:first_answer], prompt):
        return completion[:first_answer], completion[first_answer:]
    return user_turn(prompt), completion


def says(conversation: Conversation, prompt: str) -> bool:
    """Whether a turn of the user, or a system message, is the prompt but for white space around it.

    Examples:
        >>> (
        ...     says([{"role": "user", "content": "Why?"}], "Why? "),
        ...     says([{"role": "user", "content": "Why?"}], "Who?"),
        ... )
        (True, False)
    """
    return any(
        turn["role"] in ("user", "system") and turn["content"].strip() == prompt.strip()
        for turn in conversation
    )


def without_prompt(prompt: Text, completion: Text) -> Text:
    """Drop the prompt's messages from a conversation that repeats them."""
    if isinstance(prompt, list) and prompt and completion[: len(prompt)] == prompt:
        return completion[len(prompt) :]
    return completion
