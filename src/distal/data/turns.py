"""Which characters of a completion are scored: all, or the assistant's own turns.

Where a chat template marks what the assistant says with `{% generation %}`, its marks hold. Elsewhere turns are found
by rendering beginnings of the conversation: a turn starts where the prompt before it ends (with the template's
generation prompt), and ends where the conversation up to it ends. Where a template writes a last turn otherwise than
an earlier one (thinking blocks that are taken out later on), a turn ends where the rendering of what lies between it
and the next one begins. Each of these renderings must be found in that of the whole, character by character; otherwise
the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from distal.data.schemas import ANSWER_MARK, USER_MARK, Conversation
from distal.errors import ConfigError, DataError

__all__ = [
    "LOSS_ON",
    "LossOn",
    "Span",
    "Turns",
    "check_loss_on",
    "marks_generation",
    "not_a_prefix",
    "transcript_turns",
]

LossOn = Literal["completion", "last_turn", "assistant_turns"]
"""`completion`: every token behind the prompt. `last_turn`: the assistant's last turn in it. `assistant_turns`: all of
its turns, without those of the user and of tools in between."""

LOSS_ON = get_args(LossOn)

Span: TypeAlias = tuple[int, int]
"""First character, and the one behind the last."""

_SHOWN = 200
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def check_loss_on(loss_on: str) -> None:
    """Raise `ConfigError` for a value that does not exist."""
    if loss_on not in LOSS_ON:
        raise ConfigError(f"loss_on={loss_on!r}: expected one of {', '.join(LOSS_ON)}")


def marks_generation(template: str) -> bool:
    """Whether a chat template says which characters the assistant generates.

    Examples:
        >>> marks_generation("{%- generation -%}{{ m.content }}{% endgeneration %}"), marks_generation("")
        (True, False)
    """
    return _GENERATION.search(template) is not None


def transcript_turns(completion: str, loss_on: LossOn) -> list[Span]:
    r"""The assistant's turns in a plain completion that may run on as a transcript of the HH-RLHF kind.

    Examples:
        >>> text = " Yes.\n\nHuman: Thanks.\n\nAssistant: Bye."
        >>> [text[start:end] for start, end in transcript_turns(text, "assistant_turns")]
        [' Yes.', ' Bye.']
    """
    spans: list[Span] = []
    start = 0
    while start <= len(completion):
        end = completion.find(USER_MARK, start)
        spans.append((start, len(completion) if end < 0 else end))
        answer = -1 if end < 0 else completion.find(ANSWER_MARK, end)
        if answer < 0:
            break
        start = answer + len(ANSWER_MARK)
    return spans[-1:] if loss_on == "last_turn" else spans


@dataclass(frozen=True, slots=True)
class Turns:
    """The assistant's turns in a completion that a chat template has written.

    Attributes:
        prompt: messages before the completion.
        completion: its messages; the first and the last are the assistant's.
        start: length of the prompt's rendering.
        whole: rendering of all messages; begins with that of the prompt.
        write: renders a beginning of the conversation, with or without the generation prompt; None where the template
            refuses it.
        where: data set and row, for messages.
        end_mark: what a template may write behind the last turn only.
    """

    prompt: Conversation
    completion: Conversation
    start: int
    whole: str
    write: Callable[[Conversation, bool], str | None]
    where: str
    end_mark: str = ""

    def by_prefix(self, loss_on: LossOn) -> list[Span]:
        """Turns found by rendering beginnings of the conversation.

        Raises:
            DataError: a turn cannot be told from what surrounds it.
        """
        indices = [k for k, turn in enumerate(self.completion) if turn["role"] == "assistant"]
        starts = {k: self._start_of(k) for k in (indices if loss_on == "assistant_turns" else indices[-1:])}
        chosen = list(starts)
        return [
            (
                starts[k],
                self._end_of(k, None if n + 1 == len(chosen) else (chosen[n + 1], starts[chosen[n + 1]])),
            )
            for n, k in enumerate(chosen)
        ]

    def by_marks(self, marks: Sequence[Span], loss_on: LossOn) -> list[Span]:
        """Turns as the template marks them.

        Args:
            marks: what the template marks in the whole.
            loss_on: which of them count.

        Raises:
            DataError: the last turn cannot be told from the others.
        """
        first = self.start
        if loss_on == "last_turn":
            turns = [turn for turn in [*self.prompt, *self.completion] if turn["role"] == "assistant"]
            first = (
                marks[-1][0]
                if marks and len(marks) == len(turns)
                else self._start_of(len(self.completion) - 1)
            )
        return [(max(start, first), end) for start, end in marks if end > max(start, first)]

    def _start_of(self, index: int) -> int:
        """Where an assistant's turn begins."""
        if index == 0:
            return self.start
        before = self.write([*self.prompt, *self.completion[:index]], True)
        if before is None or not self.whole.startswith(before):
            raise not_a_prefix(
                self.where, f"what precedes the assistant's turn {index}", before or "", self.whole
            )
        return len(before)

    def _end_of(self, index: int, following: tuple[int, int] | None) -> int:
        """Where an assistant's turn ends, if the next one of the assistant is known by number and start."""
        if following is None:
            return len(self.whole)
        before = [*self.prompt, *self.completion[:index]]
        alone = self.write([*before, self.completion[index]], False)
        for ending in ("", self.end_mark):
            if alone is not None and self.whole.startswith(alone.removesuffix(ending)):
                return len(alone.removesuffix(ending))
        # The turn is written otherwise at the end of a conversation. What follows it, up to the next turn, is what
        # those messages add where they come without it.
        number, next_start = following
        short = self.write(before, False)
        longer = self.write([*before, *self.completion[index + 1 : number]], True)
        if short is not None and longer is not None and longer.startswith(short):
            between = longer[len(short) :]
            if between and self.whole.endswith(between, 0, next_start):
                return next_start - len(between)
        raise not_a_prefix(
            self.where, f"the assistant's turn {index} of the completion", alone or "", self.whole
        )


def not_a_prefix(where: str, what: str, part: str, whole: str) -> DataError:
    """The error for a rendering that is not the beginning of that of the whole, showing both."""
    same = next(
        (i for i, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b), min(len(part), len(whole))
    )
    start = max(0, same - _SHOWN // 2)
    return DataError(
        f"{where}: {what}, as the chat template writes it, is not the beginning of the whole conversation, so the "
        f"completion cannot be told from it. From character {start} on, it reads\n"
        f"  {part[start : start + _SHOWN]!r}\n"
        f"and the whole reads\n"
        f"  {whole[start : start + _SHOWN]!r}\n"
        f"Use a template whose generation prompt is what an assistant's turn begins with, or one that marks those "
        f"turns with {{% generation %}}; of a model that thinks, give the thoughts as the template wants them "
        f"(reasoning_content), or switch them off (chat_template_kwargs); or give plain strings"
    )
