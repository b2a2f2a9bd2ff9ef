"""TRL's own columns, which are Distal's: prompt/chosen/rejected, chosen/rejected and prompt/completion/label."""

from __future__ import annotations

from typing import cast

from distal.data import fields
from distal.data.formats.base import Format, Origin, Row, has, one, pair, sample
from distal.data.prompts import says, shared_messages, shared_transcript, user_turn
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference

__all__ = ["EXTRAS", "FORMATS", "read_explicit", "read_implicit", "read_unpaired"]

EXTRAS = frozenset({"tools", "chat_template_kwargs", "weight"})
"""Columns that these readers look at where a row has them; formats that read by them list these."""

_ORIGIN = Origin("TRL's dataset formats, https://huggingface.co/docs/trl/dataset_formats")


def read_explicit(row: Row) -> Preference:
    """A row of prompt, chosen and rejected."""
    prompt, chosen, rejected = (fields.text(row, column) for column in ("prompt", "chosen", "rejected"))
    if isinstance(prompt, str) and isinstance(chosen, list) and isinstance(rejected, list):
        # Some sets keep the first question as a string beside two whole conversations that repeat it, others beside
        # two that begin with the answer to it. What begins with another question is refused further on.
        shared = shared_messages(chosen, rejected)
        beginning = chosen[:shared]
        repeated = not prompt.strip() or says(beginning, prompt)
        if shared and (repeated or beginning[0]["role"] == "assistant"):
            prompt = beginning if repeated else [*user_turn(prompt), *beginning]
            chosen, rejected = chosen[shared:], rejected[shared:]
    return pair(prompt, chosen, rejected, **fields.extras(row), **fields.weight(row))


def read_implicit(row: Row) -> Preference:
    """A row of chosen and rejected that share their beginning."""
    chosen, rejected = fields.text(row, "chosen"), fields.text(row, "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowProblem(
            "bad_type",
            "column rejected mixes strings with messages of another column",
            "use one form in all columns",
        )
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = shared_transcript(chosen, rejected)
    else:
        cut = shared_messages(cast(Conversation, chosen), cast(Conversation, rejected))
        if cut == 0:
            raise RowProblem(
                "no_shared_prompt",
                "chosen and rejected share no message that an assistant's message follows on both sides",
                "add a prompt column",
            )
    return pair(chosen[:cut], chosen[cut:], rejected[cut:], **fields.extras(row), **fields.weight(row))


def read_unpaired(row: Row) -> Preference:
    """A row of prompt, completion and label."""
    prompt, completion = fields.text(row, "prompt"), fields.text(row, "completion")
    return sample(prompt, completion, fields.label(row), **fields.extras(row), **fields.weight(row))


FORMATS = (
    Format(
        name="paired",
        title="pairs: prompt, chosen, rejected",
        kind="paired",
        columns=frozenset({"prompt", "chosen", "rejected"}) | EXTRAS,
        recognise=has("prompt", "chosen", "rejected"),
        read=one(read_explicit),
        origin=_ORIGIN,
    ),
    Format(
        name="paired-implicit",
        title="pairs whose prompt is the shared beginning: chosen, rejected",
        kind="paired",
        columns=frozenset({"chosen", "rejected"}) | EXTRAS,
        recognise=has("chosen", "rejected"),
        read=one(read_implicit),
        origin=_ORIGIN,
    ),
    Format(
        name="unpaired",
        title="judged answers: prompt, completion, label",
        kind="unpaired",
        columns=frozenset({"prompt", "completion", "label"}) | EXTRAS,
        recognise=has("prompt", "completion", "label"),
        read=one(read_unpaired),
        origin=_ORIGIN,
    ),
)
