"""OpenAssistant message trees: pairs of ranked siblings, and votes for single replies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from distal.data import fields
from distal.data.formats.base import Format, Made, Origin, Row, attempt, has, pair, sample
from distal.data.places import placed
from distal.data.reasons import RowProblem
from distal.data.schemas import Conversation
from distal.data.values import describe_json_type

__all__ = ["FORMATS"]

_ROLES = {"prompter": "user", "assistant": "assistant"}
_DEPTH = 200
"""Messages in one line of a tree; real ones have less than twenty."""


def _threads(row: Row) -> Iterator[tuple[Conversation, list[Row]] | RowProblem]:
    """Every conversation that ends with the user, with the replies to it; messages that cannot be read as problems.

    What replies to such a message is lost with it, and nothing else.
    """
    root = fields.mapping(fields.value(row, "prompt", "give the first message of the tree"), "prompt")
    fields.list_of(root, "replies", "messages")  # without them, the row is no tree
    open_threads: list[tuple[Row, Conversation]] = [(root, [_turn(root)])]
    while open_threads:
        message, thread = open_threads.pop()
        if len(thread) > _DEPTH:
            raise RowProblem("bad_type", f"the tree is more than {_DEPTH} messages deep", "cut the tree")
        replies: list[tuple[Row, Conversation]] = []
        for found in _replies(message):
            if isinstance(found, RowProblem):
                yield found
            else:
                replies.append((found[0], [*thread, found[1]]))
        if thread[-1]["role"] == "user":
            yield thread, [reply for reply, longer in replies if longer[-1]["role"] == "assistant"]
        open_threads += reversed(replies)


def _replies(message: Row) -> Iterator[tuple[Row, dict[str, Any]] | RowProblem]:
    """The replies to a message that were not deleted, each with its turn."""
    try:
        found = fields.list_of(message, "replies", "messages")
    except RowProblem as problem:
        yield problem
        return
    for item in found:
        try:
            reply = fields.mapping(item, "replies[]")
            if not reply.get("deleted"):
                yield reply, _turn(reply)
        except RowProblem as problem:
            yield problem


def _turn(message: Row) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        shown = describe_json_type(role) if "role" in message else "absent"
        raise RowProblem("bad_type", f"the role of a message is {shown}", "give prompter or assistant")
    return {"role": _ROLES[role], "content": fields.string(message, "text", "text of a message")}


def _made(parts: Iterator[Callable[[], Made]], nothing: str) -> Iterator[Made]:
    """What the parts of a tree yield; a tree without any is a problem of its own."""
    empty = True
    for part in parts:
        empty = False
        yield attempt(part)
    if empty:
        raise RowProblem("no_preference", nothing, "nothing to mend")


def _read_ranks(row: Row) -> Iterator[Made]:
    def pairs() -> Iterator[Callable[[], Made]]:
        for found in _threads(row):
            if isinstance(found, RowProblem):
                yield partial(_refused, found)
                continue
            thread, replies = found
            ranked: list[tuple[float, int, dict[str, Any]]] = []
            for place, reply in enumerate(replies):
                try:
                    if reply.get("rank") is not None:
                        ranked.append((fields.number(reply, "rank"), place, _turn(reply)))
                except RowProblem as problem:
                    yield partial(_refused, problem)
            ranked.sort(key=lambda item: item[:2])
            for first, (rank, _, better) in enumerate(ranked):
                for other, _, worse in ranked[first + 1 :]:
                    if rank < other:
                        yield partial(pair, thread, [better], [worse])

    return _made(pairs(), "no two replies to one message are ranked")


def _refused(problem: RowProblem) -> Made:
    return problem


def _read_votes(row: Row) -> Iterator[Made]:
    def samples() -> Iterator[Callable[[], Made]]:
        for found in _threads(row):
            if isinstance(found, RowProblem):
                yield partial(_refused, found)
                continue
            thread, replies = found
            for reply in replies:
                try:
                    emojis = fields.mapping(reply.get("emojis") or {}, "emojis")
                    votes = _count(emojis, "+1") - _count(emojis, "-1")
                except RowProblem as problem:
                    yield partial(_refused, problem)
                    continue
                if votes:
                    yield partial(sample, thread, [_turn(reply)], votes > 0)

    return _made(samples(), "no reply has more votes for it than against it, or the reverse")


def _count(emojis: Row, name: str) -> float:
    return fields.number(emojis, name, f"emojis.{name}") if emojis.get(name) is not None else 0


def _gather(rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Messages that follow each other and belong to one tree, as the row of that tree."""
    for tree_id, group in itertools.groupby(rows, key=lambda item: item[1].get("message_tree_id")):
        members = list(group)
        row: dict[str, Any] = {"message_tree_id": tree_id}
        roots = _planted([message for _, message in members])
        if len(roots) == 1:
            row["prompt"] = roots[0]
        yield members[0][0], placed(row, *(message for _, message in members))


def _planted(messages: Sequence[Row]) -> list[dict[str, Any]]:
    """The messages without a parent among them, with their replies inside."""
    nodes: list[dict[str, Any]] = [{**message, "replies": []} for message in messages]
    by_id = {str(node.get("message_id")): node for node in nodes}
    roots: list[dict[str, Any]] = []
    for node in nodes:
        emojis = node.get("emojis")
        if isinstance(emojis, dict) and isinstance(emojis.get("name"), list):
            # Tables hold the votes as two lists.
            counts: Any = emojis.get("count")
            is_table = isinstance(counts, list)
            node["emojis"] = dict(zip(map(str, emojis["name"]), counts, strict=False)) if is_table else counts
        parent = by_id.get(str(node.get("parent_id")))
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent["replies"].append(node)
    return roots


_MESSAGE = frozenset(
    {"message_tree_id", "message_id", "parent_id", "text", "role", "rank", "deleted", "emojis"}
)
_OASST = Origin("Köpf et al. 2023, arXiv 2304.07327", "Apache-2.0")

FORMATS = (
    Format(
        name="oasst",
        title="OpenAssistant trees, all pairs of ranked siblings: message_tree_id, prompt",
        kind="paired",
        columns=frozenset({"message_tree_id", "prompt"}),
        recognise=has("message_tree_id", "prompt", where=lambda row: isinstance(row["prompt"], dict)),
        read=_read_ranks,
        note="pairs by rank; oasst-votes labels replies by the votes of readers",
        origin=_OASST,
    ),
    Format(
        name="oasst-votes",
        title="OpenAssistant trees, replies by the votes of readers",
        kind="unpaired",
        columns=frozenset({"message_tree_id", "prompt"}),
        recognise=has("message_tree_id", "prompt", where=lambda row: isinstance(row["prompt"], dict)),
        read=_read_votes,
        origin=_OASST,
    ),
    Format(
        name="oasst-messages",
        title="OpenAssistant messages, one per row, tree by tree: message_tree_id, message_id, parent_id, ...",
        kind="paired",
        columns=_MESSAGE,
        recognise=has("message_tree_id", "message_id", "text", "role"),
        read=_read_ranks,
        gather=_gather,
        note="pairs by rank; oasst-messages-votes labels replies by the votes of readers",
        origin=_OASST,
    ),
    Format(
        name="oasst-messages-votes",
        title="OpenAssistant messages, replies by the votes of readers",
        kind="unpaired",
        columns=_MESSAGE,
        recognise=has("message_tree_id", "message_id", "text", "role"),
        read=_read_votes,
        gather=_gather,
        origin=_OASST,
    ),
)
