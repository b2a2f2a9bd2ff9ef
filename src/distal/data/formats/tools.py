"""Layouts of other training tools: LLaMA-Factory, ms-swift and NeMo."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, attempt, has, one, pair, sample
from distal.data.prompts import shared_messages, split_answer, user_turn
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation, Preference

__all__ = ["FORMATS"]


def _conversation(row: Row, column: str) -> Conversation:
    """Messages in either layout: role and content, or ShareGPT's from and value; a system column comes first."""
    turns = fields.list_of(row, column, "messages")
    return _with_system(row, [_message(turn, f"{column}[{index}]") for index, turn in enumerate(turns)])


def _message(turn: object, where: str) -> dict[str, Any]:
    if isinstance(turn, dict) and "from" in turn:
        return fields.message(turn, where, "from", "value")
    return fields.message(turn, where)


def _with_system(row: Row, conversation: Conversation) -> Conversation:
    if row.get("system") in (None, "") or (conversation and conversation[0]["role"] == "system"):
        return conversation
    return [{"role": "system", "content": fields.string(row, "system")}, *conversation]


def _said(row: Row, column: str) -> Conversation:
    """An answer: a string, a message, or a list of messages."""
    found = fields.value(row, column, "give an answer")
    if isinstance(found, str):
        return [{"role": "assistant", "content": fields.encodable(found, column)}]
    if isinstance(found, list):
        return [_message(turn, f"{column}[{index}]") for index, turn in enumerate(found)]
    return [_message(found, column)]


def _read_sharegpt(row: Row) -> Preference:
    prompt = _conversation(row, "conversations")
    return pair(prompt, _said(row, "chosen"), _said(row, "rejected"), **fields.extras(row))


def _read_tagged(row: Row) -> Preference:
    column = next((name for name in ("messages", "conversations") if name in row), None)
    conversation = _alpaca(row, "output") if column is None else _conversation(row, column)
    prompt, answer = split_answer(conversation, column or "output")
    tag = "kto_tag" if "kto_tag" in row else "label"
    return sample(prompt, answer, fields.label(row, tag), **fields.extras(row))


def _read_alpaca(row: Row) -> Preference:
    return pair(_alpaca(row), _said(row, "chosen"), _said(row, "rejected"), **fields.extras(row))


def _alpaca(row: Row, answer: str | None = None) -> Conversation:
    """Instruction and input as one turn, behind the turns of the history."""
    more = row.get("input")
    instruction = fields.string(row, "instruction")
    question = f"{instruction}\n{fields.string(row, 'input')}" if more else instruction
    conversation = _with_system(row, [*_history(row), *user_turn(question)])
    return conversation if answer is None else [*conversation, *_said(row, answer)]


def _history(row: Row) -> Conversation:
    turns: Conversation = []
    exchanges = (
        [] if row.get("history") is None else fields.list_of(row, "history", "[question, answer] pairs")
    )
    for index, exchange in enumerate(exchanges):
        if not (isinstance(exchange, list) and len(exchange) == 2):
            raise RowProblem(
                "bad_type", f"history[{index}] is no pair of texts", "give [question, answer] pairs"
            )
        parts = {f"history[{index}][{place}]": said for place, said in enumerate(exchange)}
        for role, where in zip(("user", "assistant"), parts, strict=True):
            turns.append({"role": role, "content": fields.string(parts, where)})
    return turns


def _read_swift(row: Row) -> Preference:
    prompt, chosen = split_answer(_conversation(row, "messages"), "messages")
    if "rejected_messages" not in row or row["rejected_messages"] is None:
        return pair(prompt, chosen, _said(row, "rejected_response"), **fields.extras(row))
    good, bad = [*prompt, *chosen], _conversation(row, "rejected_messages")
    cut = shared_messages(good, bad)
    if cut == 0:
        raise RowProblem(
            "no_shared_prompt", "messages and rejected_messages share no beginning", "mend or remove the row"
        )
    return pair(good[:cut], good[cut:], bad[cut:], **fields.extras(row))


def _read_swift_query(row: Row) -> Preference:
    prompt = _with_system(row, [*_history(row), *user_turn(fields.string(row, "query"))])
    return pair(prompt, _said(row, "response"), _said(row, "rejected_response"), **fields.extras(row))


def _read_nemo(row: Row) -> Iterator[Made]:
    context = fields.messages(row, "context")
    ranked: list[tuple[float, int, Conversation]] = []
    for index, item in enumerate(fields.list_of(row, "completions", "ranked completions")):
        completion = fields.mapping(item, f"completions[{index}]")
        rank = fields.number(completion, "rank", f"completions[{index}].rank")
        ranked.append((rank, index, fields.messages(completion, "completion")))
    ranked.sort(key=lambda item: item[:2])
    pairs = [(a[2], b[2]) for i, a in enumerate(ranked) for b in ranked[i + 1 :] if a[0] < b[0]]
    if not pairs:
        raise RowProblem("tie", "no two completions have different ranks", "nothing to mend")
    for better, worse in pairs:

        def make(better: Conversation = better, worse: Conversation = worse) -> Made:
            return pair(context, better, worse)

        yield attempt(make)


def _read_nemo_texts(row: Row) -> Preference:
    return pair(
        fields.text(row, "prompt"), fields.text(row, "chosen_response"), fields.text(row, "rejected_response")
    )


def _recognise_tagged(columns: Collection[str], rows: Sequence[Row]) -> bool:
    found = set(columns)
    tagged = "kto_tag" in found and bool(found & {"messages", "conversations", "instruction"})
    return tagged or {"messages", "label"} <= found and not found & {"chosen", "rejected", "completion"}


_FACTORY = Origin("LLaMA-Factory, Zheng et al. 2024, arXiv 2403.13372")
_SWIFT = Origin("ms-swift, Zhao et al. 2024, arXiv 2408.05517")
_NEMO = Origin("NeMo RL, https://docs.nvidia.com/nemo/rl")
_EXTRAS = frozenset({"tools", "chat_template_kwargs", "system"})
_ALPACA = frozenset({"instruction", "input", "history"})

FORMATS = (
    Format(
        name="llama-factory-sharegpt",
        title="LLaMA-Factory, ShareGPT pairs: conversations, chosen, rejected",
        kind="paired",
        columns=frozenset({"conversations", "chosen", "rejected"}) | _EXTRAS,
        recognise=has("conversations", "chosen", "rejected"),
        read=one(_read_sharegpt),
        origin=_FACTORY,
    ),
    Format(
        name="llama-factory-alpaca",
        title="LLaMA-Factory, Alpaca pairs: instruction, input, chosen, rejected",
        kind="paired",
        columns=frozenset({"chosen", "rejected"}) | _ALPACA | _EXTRAS,
        recognise=has("instruction", "chosen", "rejected"),
        read=one(_read_alpaca),
        origin=_FACTORY,
    ),
    Format(
        name="kto-messages",
        title="judged conversations of LLaMA-Factory and ms-swift: messages (or Alpaca's columns), kto_tag or label",
        kind="unpaired",
        columns=frozenset({"messages", "conversations", "output", "kto_tag", "label"}) | _ALPACA | _EXTRAS,
        recognise=_recognise_tagged,
        read=one(_read_tagged),
        origin=_FACTORY,
    ),
    Format(
        name="swift",
        title="ms-swift pairs: messages, rejected_response (or rejected_messages)",
        kind="paired",
        columns=frozenset({"messages", "rejected_response", "rejected_messages"}) | _EXTRAS,
        recognise=lambda columns, rows: (
            "messages" in columns and bool({"rejected_response", "rejected_messages"} & set(columns))
        ),
        read=one(_read_swift),
        origin=_SWIFT,
    ),
    Format(
        name="swift-query",
        title="ms-swift pairs of earlier versions: query, response, rejected_response",
        kind="paired",
        columns=frozenset({"query", "response", "rejected_response", "history"}) | _EXTRAS,
        recognise=has("query", "response", "rejected_response"),
        read=one(_read_swift_query),
        origin=_SWIFT,
    ),
    Format(
        name="nemo",
        title="NeMo RL, ranked completions: context, completions",
        kind="paired",
        columns=frozenset({"context", "completions"}),
        recognise=has("context", "completions"),
        read=_read_nemo,
        origin=_NEMO,
    ),
    Format(
        name="nemo-texts",
        title="NeMo pairs: prompt, chosen_response, rejected_response",
        kind="paired",
        columns=frozenset({"prompt", "chosen_response", "rejected_response"}),
        recognise=has("prompt", "chosen_response", "rejected_response"),
        read=one(_read_nemo_texts),
        origin=_NEMO,
    ),
)
