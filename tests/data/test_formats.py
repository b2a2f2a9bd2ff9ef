"""One row of every format, read by hand. The rows are synthetic: written here in the published columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distal.data import FORMATS, ReadOptions, open_preferences
from distal.data.formats import find_format
from distal.data.reasons import RowProblem
from distal.data.schemas import Answer, Preference
from distal.errors import ConfigError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def pair(prompt: Any, chosen: Any, rejected: Any) -> Preference:
    return Preference(prompt, (chosen, rejected), (True, False))


def sample(prompt: Any, completion: Any, label: bool) -> Preference:
    return Preference(prompt, (completion,), (label,))


def read(row: dict[str, Any], wanted: str | None = None) -> tuple[str, list[Any]]:
    """Name of the format, and what the row yields; problems as their reasons."""
    form = find_format(row, [row], "rows", wanted)
    made: list[Any] = []
    try:
        for item in form.read(row):
            made.append(item.reason if isinstance(item, RowProblem) else item)
    except RowProblem as problem:
        made.append(problem.reason)
    return form.name, made


HH = "\n\nHuman: Hi\n\nAssistant:"
POST = "SUBREDDIT: r/tea\n\nTITLE: Tea\n\nPOST: I like tea."
INFO = {"id": "t3", "subreddit": "tea", "title": "Tea", "post": "I like tea."}
SAFE = {
    "prompt": "p",
    "response_0": "a",
    "response_1": "b",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
STEER = {
    "prompt": "p",
    "response": "a",
    "helpfulness": 3,
    "correctness": 4,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 0,
}
STEER_GRADES = {"helpfulness": 3.0, "correctness": 4.0, "coherence": 4.0, "complexity": 1.0, "verbosity": 0.0}
EXPERTS = {
    "prompt": "p",
    "completion_a": "x",
    "completion_b": "y",
    "completion_a_is_acceptable": "yes",
    "completion_b_is_acceptable": "no",
    "preference": "b-is-slightly-better",
}
RATED = {
    "instruction_following": {"Rating": "4", "Rationale": "r"},
    "truthfulness": {"Type": ["None"], "Rating": "N/A"},
}


def tree(*replies: dict[str, Any]) -> dict[str, Any]:
    prompt = {"text": "q", "role": "prompter", "replies": list(replies)}
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": prompt}


def reply(text: str, *replies: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"text": text, "role": "assistant", "replies": list(replies), **fields}


SCORED = {"chosen": "a", "rejected": "b", "score_chosen": 2.0, "score_rejected": 1.0}
DIALOGUES = {"chosen": [user("p"), bot("a")], "rejected": [user("p"), bot("b")]}
SHAREGPT = {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}]}
QUESTION = [system("s"), user("q")]

CASES: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("hh-rlhf", {"chosen": HH + " a", "rejected": HH + " b"}, [pair(HH, " a", " b")]),
    (
        "summarize-pairs",
        {"prompt": POST, "chosen": "TL;DR:  good", "rejected": "TL;DR: bad<|endoftext|>and more"},
        [pair(POST + "\n\nTL;DR:", " good", " bad")],
    ),
    (
        "summarize",
        {"info": INFO, "summaries": [{"text": " bad"}, {"text": " good"}], "choice": 1},
        [pair(POST + "\n\nTL;DR:", " good", " bad")],
    ),
    (
        "summarize-axis",
        {"info": INFO, "summary": {"text": " fine", "axes": {"overall": 6, "accuracy": None}}},
        [Answer(POST + "\n\nTL;DR:", " fine", {"overall": 6.0})],
    ),
    (
        "ultrafeedback",
        {
            "instruction": "i",
            "completions": [
                {"model": "m", "response": "a", "annotations": RATED, "fine-grained_score": 4.0},
                {"model": "n", "response": ""},
                {"model": "o", "response": "c"},
            ],
        },
        [
            Answer("i", "a", {"instruction_following": 4.0, "fine-grained_score": 4.0}),
            "empty_completion",
            Answer("i", "c", {}),
        ],
    ),
    (
        "ultrafeedback-binarized",
        {
            "prompt": "p",
            "chosen": [user("p"), bot("a")],
            "rejected": [user("p"), bot("b")],
            "score_chosen": 7.5,
            "score_rejected": 7.5,
        },
        [Preference([user("p")], ([bot("a")], [bot("b")]), (True, False), remarks=("tied_grades",))],
    ),
    (
        "ultrafeedback-binarized",
        {
            "prompt": "p",
            "chosen": "a",
            "rejected": "b",
            "metadata": {"score_chosen": 8.0, "score_rejected": 2.0},
        },
        [pair("p", "a", "b")],
    ),
    (
        "ultrafeedback-binarized-graded",
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 8.0, "score_rejected": 2},
        [Answer("p", "a", {"score": 8.0}), Answer("p", "b", {"score": 2.0})],
    ),
    ("helpsteer", STEER, [Answer("p", "a", STEER_GRADES)]),
    (
        "helpsteer",
        {**STEER, "helpfulness": [2, 3, 4]},
        [Answer("p", "a", STEER_GRADES)],
    ),
    (
        "helpsteer2-preference",
        {"split": "train", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -2},
        [pair("p", "a", "b")],
    ),
    (
        "helpsteer2-preference",
        {"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0},
        ["tie"],
    ),
    (
        "helpsteer3",
        {
            "domain": "general",
            "context": [user("q")],
            "response1": "a",
            "response2": "b",
            "overall_preference": 1,
        },
        [pair([user("q")], [bot("b")], [bot("a")])],
    ),
    ("beavertails", {"prompt": "p", "response": "a", "is_safe": False}, [sample("p", "a", False)]),
    ("saferlhf", SAFE, [pair("p", "b", "a")]),
    ("saferlhf-safer", SAFE, [pair("p", "a", "b")]),
    ("saferlhf-safety", SAFE, [sample("p", "a", True), sample("p", "b", False)]),
    (
        "orca-dpo",
        {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
        [pair(QUESTION, [bot("a")], [bot("b")])],
    ),
    (
        "orca-dpo",
        {"system": "", "input": "q", "chosen": "a", "rejected": "b", "status": "swapped"},
        [pair([user("q")], [bot("a")], [bot("b")])],
    ),
    ("orca-dpo", {"system": "", "input": "q", "chosen": "a", "rejected": "b", "status": "tie"}, ["tie"]),
    (
        "stack-exchange",
        {"question": "q", "response_j": "good", "response_k": "bad"},
        [pair("q", "good", "bad")],
    ),
    ("tulu1-human", EXPERTS, [pair("p", "y", "x")]),
    ("tulu1-human", {**EXPERTS, "preference": "tie"}, ["tie"]),
    ("tulu1-human", {**EXPERTS, "preference": "both"}, ["bad_label"]),
    ("tulu1-human-acceptable", EXPERTS, [sample("p", "x", True), sample("p", "y", False)]),
    (
        "tulu3-preference",
        {
            "id": "1",
            "source": "s",
            "prompt": "p",
            "chosen": [user("p"), bot("a")],
            "rejected": [user("p"), bot("b")],
        },
        [pair([user("p")], [bot("a")], [bot("b")])],
    ),
    (
        "oasst",
        tree(
            reply("worse", rank=1),
            reply(
                "best",
                {
                    "text": "more",
                    "role": "prompter",
                    "replies": [reply("x", rank=0), reply("unranked"), reply("gone", rank=1, deleted=True)],
                },
                rank=0,
            ),
            reply("worst", rank=2),
        ),
        [
            pair([user("q")], [bot("best")], [bot("worse")]),
            pair([user("q")], [bot("best")], [bot("worst")]),
            pair([user("q")], [bot("worse")], [bot("worst")]),
        ],
    ),
    ("oasst", tree(reply("alone", rank=0)), ["no_preference"]),
    (
        "oasst-votes",
        tree(
            reply("a", emojis={"+1": 2, "-1": 1, "_skip_reply": 9}), reply("b", emojis={"-1": 1}), reply("c")
        ),
        [sample([user("q")], [bot("a")], True), sample([user("q")], [bot("b")], False)],
    ),
    (
        "llama-factory-sharegpt",
        {**SHAREGPT, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
        [pair(QUESTION, [bot("a")], [bot("b")])],
    ),
    (
        "llama-factory-alpaca",
        {
            "instruction": "do",
            "input": "this",
            "chosen": "a",
            "rejected": "b",
            "history": [["x", "y"]],
            "system": "s",
        },
        [pair([system("s"), user("x"), bot("y"), user("do\nthis")], [bot("a")], [bot("b")])],
    ),
    (
        "kto-messages",
        {"instruction": "do", "input": "", "output": "a", "kto_tag": True},
        [sample([user("do")], [bot("a")], True)],
    ),
    (
        "kto-messages",
        {"conversations": [*SHAREGPT["conversations"], {"from": "gpt", "value": "a"}], "kto_tag": False},
        [sample(QUESTION, [bot("a")], False)],
    ),
    (
        "kto-messages",
        {"messages": [user("q"), bot("a"), user("r"), bot("b")], "label": 1},
        [sample([user("q"), bot("a"), user("r")], [bot("b")], True)],
    ),
    ("kto-messages", {"messages": [user("q")], "label": True}, ["bad_type"]),
    (
        "swift",
        {"messages": [user("q"), bot("a")], "rejected_response": "b"},
        [pair([user("q")], [bot("a")], [bot("b")])],
    ),
    (
        "swift",
        {
            "messages": [user("q"), bot("a"), user("r"), bot("c")],
            "rejected_messages": [user("q"), bot("b"), user("r"), bot("c")],
        },
        [pair([user("q")], [bot("a"), user("r"), bot("c")], [bot("b"), user("r"), bot("c")])],
    ),
    (
        "swift-query",
        {"system": "s", "query": "q", "response": "a", "rejected_response": "b", "history": []},
        [pair(QUESTION, [bot("a")], [bot("b")])],
    ),
    (
        "nemo",
        {
            "context": [user("q")],
            "completions": [
                {"rank": 1, "completion": [bot("b")]},
                {"rank": 0, "completion": [bot("a")]},
                {"rank": 1, "completion": [bot("c")]},
            ],
        },
        [pair([user("q")], [bot("a")], [bot("b")]), pair([user("q")], [bot("a")], [bot("c")])],
    ),
    (
        "nemo-texts",
        {"prompt": "p", "chosen_response": "a", "rejected_response": "b"},
        [pair("p", "a", "b")],
    ),
    (
        "arena-hard",
        {"question_id": "1", "prompt": "p", "model": "m", "response": "a", "score": 9.5, "judgment": "..."},
        [Answer("p", "a", {"score": 9.5})],
    ),
    ("graded", {"prompt": "p", "completion": "a", "score": "3"}, [Answer("p", "a", {"score": 3.0})]),
    ("graded", {"prompt": "p", "completion": "a", "score": float("nan")}, ["bad_grade"]),
    (
        "graded-lists",
        {"prompt": "p", "completions": ["a", "", [bot("b")]], "scores": [1, 2, 3]},
        [
            Answer("p", "a", {"score": 1.0}),
            "empty_completion",
            Answer([user("p")], [bot("b")], {"score": 3.0}),
        ],
    ),
    ("graded-lists", {"prompt": "p", "completions": ["a"], "scores": [1, 2]}, ["bad_grade"]),
    ("paired", {"prompt": "p", "chosen": "a", "rejected": "b"}, [pair("p", "a", "b")]),
    (
        "paired-implicit",
        {"chosen": [user("p"), bot("a")], "rejected": [user("p"), bot("b")]},
        [pair([user("p")], [bot("a")], [bot("b")])],
    ),
    (
        "unpaired",
        {"prompt": [user("p")], "completion": [bot("a")], "label": True},
        [sample([user("p")], [bot("a")], True)],
    ),
]
SECOND_READINGS = {
    "ultrafeedback-binarized-graded",
    "saferlhf-safer",
    "saferlhf-safety",
    "tulu1-human-acceptable",
    "oasst-votes",
}
"""Formats of columns that another one reads first: they have to be named."""


@pytest.mark.parametrize(("name", "row", "expected"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_a_row_is_recognised_and_read(name: str, row: dict[str, Any], expected: list[Any]) -> None:
    wanted = name if name in SECOND_READINGS else None
    assert read(row, wanted) == (name, expected)
    # Columns that the format does not ask for are not decoded: what it yields must not depend on them.
    needed = {column: value for column, value in row.items() if column in FORMATS[name].columns}
    assert read(needed, name) == (name, expected)


def flat(message: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    """The messages of a tree as the rows of a table, depth first."""
    votes = message.get("emojis", {})
    row = {
        "message_tree_id": "t",
        "message_id": message["text"],
        "parent_id": parent,
        "text": message["text"],
        "role": message["role"],
        "rank": message.get("rank"),
        "deleted": message.get("deleted", False),
        "emojis": {"name": list(votes), "count": list(votes.values())},
    }
    return [row, *(inner for reply in message["replies"] for inner in flat(reply, message["text"]))]


def test_messages_of_a_table_are_put_together_again() -> None:
    for name, row, expected in CASES:
        if not name.startswith("oasst"):
            continue
        wanted = name.replace("oasst", "oasst-messages")
        trees = [{**message, "message_tree_id": f"t{i}"} for i in range(2) for message in flat(row["prompt"])]
        source = open_preferences(trees, ReadOptions(format=wanted))
        made = [(number, getattr(item, "reason", item)) for number, item in source]
        n = len(trees) // 2
        assert made == [(first, item) for first in (0, n) for item in expected]
        assert source.rows_seen() == 2 * n
    alone = flat(tree(reply("a", rank=0))["prompt"])
    assert open_preferences(alone).form.name == "oasst-messages"


def test_a_tree_without_its_root_is_refused() -> None:
    rows = flat(tree(reply("a", rank=0), reply("b", rank=1))["prompt"])[1:]
    (made,) = [item for _, item in open_preferences(rows)]
    assert isinstance(made, RowProblem)
    assert "column prompt is absent" in str(made)


def test_every_format_has_a_row_here() -> None:
    assert {case[0] for case in CASES} == {name for name, form in FORMATS.items() if form.gather is None}
    for name, row, _ in CASES:
        if name in SECOND_READINGS:
            assert find_format(row, [row], "rows").name != name


def test_every_format_says_what_it_is() -> None:
    for form in FORMATS.values():
        assert form.title
        assert (form.kind == "graded") == bool(form.grades)
        is_layout = form.name in {"paired", "paired-implicit", "unpaired", "graded", "graded-lists"}
        is_tool = form.name.startswith(("llama", "swift", "nemo", "kto"))
        assert is_layout or form.origin.citation
        assert is_layout or is_tool or form.origin.licence


def test_a_name_that_does_not_exist_brings_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no such format; did you mean helpsteer"):
        find_format(["prompt"], [], "rows", "helpster")
    with pytest.raises(ConfigError, match="no such format; one of oasst"):
        find_format(["prompt"], [], "rows", "zzz")


WEIGHTED: list[tuple[str, dict[str, Any]]] = [
    ("hh-rlhf", {"chosen": HH + " a", "rejected": HH + " b"}),
    ("ultrafeedback-binarized", {"prompt": "p", **SCORED}),
    ("tulu3-preference", {"id": "1", "source": "s", "prompt": "p", **DIALOGUES}),
]


@pytest.mark.parametrize(("name", "row"), WEIGHTED)
def test_weights_and_tools_count_in_every_kind_of_file(
    tmp_path: Path, name: str, row: dict[str, Any]
) -> None:
    rows = [{**row, "weight": weight, "tools": '[{"name": "f"}]'} for weight in (2.0, None)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "rows.parquet")
    for source in (open_preferences(rows), open_preferences(tmp_path / "rows.parquet")):
        made = [item for _, item in source if isinstance(item, Preference)]
        assert source.form.name == name
        assert [item.weight for item in made] == [2.0, None]
        assert [item.tools for item in made] == [[{"name": "f"}]] * 2
        assert any(note.startswith("column weight: used") for note in source.notes)


def test_graded_answers_have_no_weights(tmp_path: Path) -> None:
    rows = [{"prompt": "p", **SCORED, "weight": 0.0, "tools": "{not JSON"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    options = ReadOptions(format="ultrafeedback-binarized-graded")
    for data in (rows, tmp_path / "rows.parquet"):
        source = open_preferences(data, options)
        assert [item.desirable for _, item in source if isinstance(item, Preference)] == [(True,), (False,)]
        assert "column weight: weights of rows are not used in this format" in source.notes


def test_a_message_that_cannot_be_read_costs_its_replies_alone() -> None:
    row = tree(
        reply(
            "best",
            {"text": "more", "role": "prompter", "replies": [reply("x", rank=0), reply("y", rank=1)]},
            rank=0,
        ),
        reply("worse", rank=1),
        reply("lost", rank=float("nan")),
        {"text": None, "role": "assistant", "rank": 2, "replies": [reply("gone", rank=0)]},
    )
    made = list(FORMATS["oasst"].read(row))
    problems = sorted(item.reason for item in made if isinstance(item, RowProblem))
    assert problems == ["bad_grade", "bad_type"]
    assert [item for item in made if isinstance(item, Preference)] == [
        pair([user("q")], [bot("best")], [bot("worse")]),
        pair([user("q"), bot("best"), user("more")], [bot("x")], [bot("y")]),
    ]
    voted = tree(reply("a", emojis={"+1": "many"}), reply("b", emojis={"+1": 1}))
    problem, liked = FORMATS["oasst-votes"].read(voted)
    assert isinstance(problem, RowProblem)
    assert liked == sample([user("q")], [bot("b")], True)


@pytest.mark.parametrize(
    ("row", "reason", "part"),
    [
        ({**SAFE, "better_response_id": 2}, "bad_label", "better_response_id is number 2"),
        ({**SAFE, "better_response_id": True}, "bad_label", "better_response_id is boolean True"),
        ({"prompt": "p", "response": "a", "is_safe": "yes"}, "bad_label", "is_safe is string 'yes'"),
        ({**EXPERTS, "completion_b": None}, "bad_type", "column completion_b is null"),
        ({**STEER, "helpfulness": "good"}, "bad_grade", "helpfulness is string 'good'"),
        ({"info": {}, "summaries": [{"text": "a"}], "choice": 0}, "bad_type", "1 summaries"),
        ({"message_tree_id": "t", "prompt": {"role": "bot", "text": "", "replies": []}}, "bad_type", "'bot'"),
        (
            {"message_tree_id": "t", "prompt": {"role": "prompter", "text": "a"}},
            "bad_type",
            "replies is absent",
        ),
        ({"instruction": "i", "completions": "none"}, "bad_type", "column completions is string"),
        ({"context": [user("q")], "completions": [{"rank": 0, "completion": [bot("a")]}]}, "tie", "ranks"),
        ({**SHAREGPT, "chosen": {"from": "gpt"}, "rejected": {}}, "bad_type", "chosen.value is absent"),
        ({"conversations": 3, "chosen": {}, "rejected": {}}, "bad_type", "conversations is number 3"),
        ({"instruction": "i", "history": [["x"]], "chosen": "a", "rejected": "b"}, "bad_type", "history[0]"),
        (
            {"messages": [user("q"), bot("a")], "rejected_messages": [user("z"), bot("b")]},
            "no_shared_prompt",
            "share no beginning",
        ),
    ],
)
def test_rows_that_cannot_be_used_say_where(row: dict[str, Any], reason: str, part: str) -> None:
    with pytest.raises(RowProblem) as caught:
        list(find_format(row, [row], "rows").read(row))
    assert (caught.value.reason, part in str(caught.value)) == (reason, True), caught.value
