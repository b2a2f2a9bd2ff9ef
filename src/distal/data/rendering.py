"""From a preference to strings: plain text as it is, conversations by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from distal.data.keys import prompt_key
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference, Text, has_other_turn
from distal.data.turns import LossOn, Span, Turns, marks_generation, not_a_prefix, transcript_turns
from distal.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Rendered", "Spans", "prompt_as_text", "render"]

Spans = tuple[Span, ...] | None
"""Stretches of a whole text that are scored; None for everything behind the prompt."""

_RAISED_BY_TEMPLATES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What Python raises where a template does with a message what cannot be done with it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row as text, ready to be tokenised.

    Attributes:
        source_row: 0-based row of the source.
        prompt: text before the completion.
        completions: (chosen, rejected) or the one completion; prompt + completion is the whole text.
        desirable: for each completion, whether it is chosen or liked.
        templated: the text comes from a chat template, which writes all special tokens itself.
        remarks: keys of `distal.data.reasons.NOTED` that hold for this row.
        spans: for each completion, the characters of prompt + completion that are scored.
        weight: how much the row counts; None where it does not say.
        prompt_key: equal for rows of the same prompt, before any template has written it.
    """

    source_row: int
    prompt: str
    completions: tuple[str, ...]
    desirable: tuple[bool, ...]
    templated: bool
    remarks: tuple[str, ...] = ()
    spans: tuple[Spans, ...] = ()
    weight: float | None = None
    prompt_key: int = 0

    def __post_init__(self) -> None:
        if not self.spans:
            object.__setattr__(self, "spans", (None,) * len(self.completions))


def render(
    row: Preference,
    source_row: int,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    loss_on: LossOn = "completion",
) -> Rendered:
    """Write a preference as text.

    Args:
        row: what the schema made of the source row.
        source_row: its 0-based number.
        tokenizer: a Hugging Face tokenizer; its chat template writes conversations.
        name: the data set, for messages.
        loss_on: which part of a completion is scored.

    Raises:
        DataError: conversations without a chat template, or a template whose rendering of the prompt is not
            the beginning of its rendering of the whole: no completion can then be told from the prompt.
        RowProblem: the template refuses these roles or contents.
    """
    others = any(map(has_other_turn, row.completions))
    remark = "user_turn_in_completion" if loss_on == "completion" else "other_turn_not_scored"
    remarks = (*row.remarks, remark) if others else row.remarks
    key = prompt_key(row)
    if isinstance(row.prompt, str):
        texts = tuple(text for text in row.completions if isinstance(text, str))
        spans = tuple(_plain_spans(row.prompt, text, loss_on) for text in texts)
        return Rendered(source_row, row.prompt, texts, row.desirable, False, remarks, spans, row.weight, key)
    if not tokenizer.chat_template:
        raise DataError(
            f"{name}: row {source_row} is a conversation, but the tokenizer has no chat template; give one as a "
            f"Jinja file (--chat-template FILE; from Python: tokenizer.chat_template), use the tokenizer of the "
            f"instruction-tuned model (--tokenizer), or give plain strings"
        )
    writer = _Writer(tokenizer, row, f"{name}: row {source_row}")
    prompt = writer.write(row.prompt, generate=True)
    sides = [writer.side(row.prompt, prompt, messages, loss_on) for messages in row.completions]
    if any(added for _, _, added in sides):
        remarks = (*remarks, "end_added")
    completions, found = tuple(text for text, _, _ in sides), tuple(spans for _, spans, _ in sides)
    if len(completions) == 2 and completions[0] == completions[1]:
        raise RowProblem(
            "chosen_equals_rejected",
            "the chat template writes both sides alike, although their messages differ",
            "see what the template leaves out (thoughts, say), or remove the row",
        )
    return Rendered(source_row, prompt, completions, row.desirable, True, remarks, found, row.weight, key)


def prompt_as_text(tokenizer: PreTrainedTokenizerBase, row: Preference) -> str:
    """A prompt as it stands before an answer: plain text as it is, messages up to where the assistant's turn begins.

    Raises:
        ModelError: the tokenizer's chat template is not valid Jinja.
        RowProblem: it refuses these roles or contents.
    """
    if isinstance(row.prompt, str):
        return row.prompt
    return _Writer(tokenizer, row, "the prompt").write(row.prompt, generate=True)


def _told(error: Exception) -> str:
    """What a template raised; a missing key, for one, is only named."""
    told = str(error)
    return told if told and not isinstance(error, LookupError) else f"{type(error).__name__}({told})"


def _plain_spans(prompt: str, completion: str, loss_on: LossOn) -> Spans:
    """Stretches of a plain text that are scored."""
    if loss_on == "completion":
        return None
    spans = transcript_turns(completion, loss_on)
    return _unless_all(
        [(len(prompt) + start, len(prompt) + end) for start, end in spans],
        len(prompt),
        len(prompt) + len(completion),
    )


def _unless_all(spans: Sequence[Span], start: int, end: int) -> Spans:
    """The spans; None where they are the whole stretch."""
    return None if list(spans) == [(start, end)] else tuple(spans)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the conversations of one row.

    Attributes:
        tokenizer: whose template writes them.
        row: whose tools and options it reads.
        where: data set and row, for messages.
    """

    tokenizer: PreTrainedTokenizerBase
    row: Preference
    where: str

    def side(
        self, messages: Conversation, prompt: str, completion: Text, loss_on: LossOn
    ) -> tuple[str, Spans, bool]:
        """Text of a completion, the stretches of the whole that are scored, and whether an end was added."""
        own = [turn for turn in completion if isinstance(turn, dict)]
        conversation = [*messages, *own]
        whole = self.write(conversation, generate=False)
        if not whole.startswith(prompt):
            raise not_a_prefix(self.where, "the prompt", prompt, whole)
        spans: list[Span] | None = None
        if loss_on != "completion":
            end_mark = str(self.tokenizer.eos_token)
            turns = Turns(messages, own, len(prompt), whole, self._attempt, self.where, end_mark)
            marked = marks_generation(self.template)
            spans = (
                turns.by_marks(self._marks(conversation, whole), loss_on)
                if marked
                else turns.by_prefix(loss_on)
            )
        last, eos = conversation[-1]["content"].strip(), str(self.tokenizer.eos_token)
        bare, end = whole.rstrip(), len(whole)  # many templates put a line break behind every turn
        added = bool(last) and bare.endswith(last) and not bare.endswith(eos)
        if added:
            whole += eos
            if spans and spans[-1][1] == end:
                spans[-1] = (spans[-1][0], len(whole))
            elif spans and spans[-1][1] >= len(bare):
                spans.append((end, len(whole)))
        found = None if spans is None else _unless_all(spans, len(prompt), len(whole))
        return whole[len(prompt) :], found, added

    @property
    def template(self) -> str:
        """The template that writes this row."""
        return self.tokenizer.get_chat_template(None, self._tools)

    @property
    def _tools(self) -> list[Any] | None:
        return None if self.row.tools is None else list(self.row.tools)

    def write(self, conversation: Conversation, *, generate: bool) -> str:
        """A conversation as text, with or without the template's generation prompt."""
        import jinja2

        if not conversation:
            if generate:
                raise RowProblem(
                    "template_refused",
                    "the prompt holds no message, without which a chat template does not begin a conversation",
                    "give the user's message, or remove the row",
                )
            return ""
        try:
            text = self.tokenizer.apply_chat_template(
                conversation,
                tools=self._tools,
                tokenize=False,
                add_generation_prompt=generate,
                **self.row.template_options,
            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template of the tokenizer is not valid Jinja: {error.message} (line {error.lineno} of the "
                "template); mend it, or give another (--chat-template FILE)"
            ) from error
        except (jinja2.TemplateError, *_RAISED_BY_TEMPLATES) as error:
            roles = ", ".join(turn["role"] for turn in conversation)
            raise RowProblem(
                "template_refused",
                f"the chat template refuses the roles {roles}: {_told(error)}",
                "mend the order of the messages, or remove the row",
            ) from error
        return cast(str, text)

    def _attempt(self, conversation: Conversation, generate: bool) -> str | None:
        """A beginning of a conversation as text; None where the template refuses it."""
        try:
            return self.write(conversation, generate=generate)
        except RowProblem:
            return None

    def _marks(self, conversation: Conversation, whole: str) -> list[Span]:
        """The characters of the whole that the template marks as generated by the assistant."""
        from transformers.utils.chat_template_utils import render_jinja_template

        read: dict[str, Any] = {**self.tokenizer.special_tokens_map, **self.row.template_options}
        rendered: Any = render_jinja_template(
            [conversation],
            tools=self._tools,
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            **read,
        )
        texts, marks = rendered
        if texts[0] != whole:
            raise ModelError(
                f"{self.where}: the tokenizer writes conversations otherwise than its chat template does, so the marks "
                "of the template are of no use; choose loss_on: completion"
            )
        return [(int(start), int(end)) for start, end in marks[0]]
