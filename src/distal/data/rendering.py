"""From a preference to strings: plain text as it is, conversations by the tokenizer's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference, has_user_turn
from distal.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Rendered", "render"]

_SHOWN = 200


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
        weight: how much the row counts; None where it does not say.
    """

    source_row: int
    prompt: str
    completions: tuple[str, ...]
    desirable: tuple[bool, ...]
    templated: bool
    remarks: tuple[str, ...] = ()
    weight: float | None = None


def render(row: Preference, source_row: int, tokenizer: PreTrainedTokenizerBase, name: str) -> Rendered:
    """Write a preference as text.

    Args:
        row: what the schema made of the source row.
        source_row: its 0-based number.
        tokenizer: a Hugging Face tokenizer; its chat template writes conversations.
        name: the data set, for messages.

    Raises:
        DataError: conversations without a chat template, or a template whose rendering of the prompt is not
            the beginning of its rendering of the whole: no completion can then be told from the prompt.
        RowProblem: the template refuses these roles or contents.
    """
    turns = ("user_turn_in_completion",) if any(map(has_user_turn, row.completions)) else ()
    remarks = (*row.remarks, *turns)
    if isinstance(row.prompt, str):
        texts = tuple(text for text in row.completions if isinstance(text, str))
        return Rendered(source_row, row.prompt, texts, row.desirable, False, remarks, row.weight)
    if not tokenizer.chat_template:
        raise DataError(
            f"{name}: row {source_row} is a conversation, but the tokenizer has no chat template; give one as a "
            f"Jinja file (--chat-template FILE; from Python: tokenizer.chat_template), use the tokenizer of the "
            f"instruction-tuned model (--tokenizer), or give plain strings"
        )
    prompt = _apply(tokenizer, row, row.prompt, generate=True)
    completions: list[str] = []
    for messages in row.completions:
        conversation = [*row.prompt, *(turn for turn in messages if isinstance(turn, dict))]
        whole = _apply(tokenizer, row, conversation, generate=False)
        if not whole.startswith(prompt):
            raise _not_a_prefix(name, source_row, prompt, whole)
        completions.append(whole[len(prompt) :])
        last = conversation[-1]["content"].strip()
        if last and whole.endswith(last):
            completions[-1] += str(tokenizer.eos_token)
            remarks = (*remarks, "end_added") if "end_added" not in remarks else remarks
    return Rendered(source_row, prompt, tuple(completions), row.desirable, True, remarks, row.weight)


def _apply(
    tokenizer: PreTrainedTokenizerBase, row: Preference, conversation: Conversation, *, generate: bool
) -> str:
    import jinja2

    if not conversation:
        return ""
    try:
        text = tokenizer.apply_chat_template(
            conversation,
            tools=None if row.tools is None else list(row.tools),
            tokenize=False,
            add_generation_prompt=generate,
            **row.template_options,
        )
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"the chat template of the tokenizer is not valid Jinja: {error.message} (line {error.lineno} of the "
            "template); mend it, or give another (--chat-template FILE)"
        ) from error
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(turn["role"] for turn in conversation)
        raise RowProblem(
            "template_refused",
            f"the chat template refuses the roles {roles}: {error}",
            "mend the order of the messages, or remove the row",
        ) from error
    return cast(str, text)


def _not_a_prefix(name: str, source_row: int, prompt: str, whole: str) -> DataError:
    same = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
        min(len(prompt), len(whole)),
    )
    start = max(0, same - _SHOWN // 2)
    return DataError(
        f"{name}: row {source_row}: the chat template's prompt is not the beginning of the whole "
        f"conversation, so the completion cannot be told from it. From character {start} on, the prompt "
        f"reads\n"
        f"  {prompt[start : start + _SHOWN]!r}\n"
        f"and the whole reads\n"
        f"  {whole[start : start + _SHOWN]!r}\n"
        f"Use a template whose generation prompt is what an assistant's turn begins with, or give plain "
        f"strings"
    )
