"""Rows in TRL's columns, read by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from distal.data.formats import find_format
from distal.data.reasons import RowProblem
from distal.data.schemas import Preference
from distal.errors import DataError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(row: dict[str, Any]) -> Preference:
    (made,) = find_format(row, [row], "rows").read(row)
    assert isinstance(made, Preference)
    return made


def problem(row: dict[str, Any]) -> RowProblem:
    with pytest.raises(RowProblem) as caught:
        read(row)
    return caught.value


def test_plain_rows() -> None:
    assert read({"prompt": "p", "chosen": "c", "rejected": "r", "id": 3}) == Preference(
        "p", ("c", "r"), (True, False)
    )
    assert read({"prompt": "", "completion": "c", "label": False}) == Preference("", ("c",), (False,))


@pytest.mark.parametrize("label", [True, 1, np.True_, np.int64(1)])
def test_labels_that_mean_true(label: Any) -> None:
    assert read({"prompt": "", "completion": "c", "label": label}).desirable == (True,)


@pytest.mark.parametrize("label", ["true", "1", 2, -1, 1.0, None, [True], float("nan")])
def test_labels_that_are_refused(label: Any) -> None:
    found = problem({"prompt": "", "completion": "c", "label": label})
    assert found.reason == "bad_label"
    assert "use true or false" in str(found)


def test_transcripts_are_cut_at_the_last_mark_that_both_sides_share() -> None:
    shared = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why\n\nAssistant:"
    row = read({"chosen": shared + " A", "rejected": shared + " B\n\nHuman: more\n\nAssistant: C"})
    assert row == Preference(shared, (" A", " B\n\nHuman: more\n\nAssistant: C"), (True, False))


def test_a_mark_inside_both_answers_is_not_the_prompt() -> None:
    prompt = "\n\nHuman: Hi\n\nAssistant:"
    row = read({"chosen": prompt + " A\n\nAssistant: x", "rejected": prompt + " B\n\nAssistant: x"})
    assert row.prompt == prompt


def test_transcripts_without_a_shared_mark() -> None:
    assert (
        problem({"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}).reason
        == "no_shared_prompt"
    )


def test_conversations_share_their_first_messages() -> None:
    head = [user("a"), bot("b"), user("c")]
    row = read({"chosen": [*head, bot("d")], "rejected": [*head, bot("e"), user("f"), bot("g")]})
    assert row == Preference(head, ([bot("d")], [bot("e"), user("f"), bot("g")]), (True, False))


def test_the_shared_prompt_ends_where_both_sides_answer() -> None:
    # All of the shorter side is shared; the cut goes back to the last place where both have an answer left.
    row = read({"chosen": [user("a"), bot("b"), user("c"), bot("d")], "rejected": [user("a"), bot("b")]})
    assert row == Preference([user("a")], ([bot("b"), user("c"), bot("d")], [bot("b")]), (True, False))


def test_conversations_that_share_nothing() -> None:
    assert (
        problem({"chosen": [user("a"), bot("x")], "rejected": [user("b"), bot("y")]}).reason
        == "no_shared_prompt"
    )


def test_a_prompt_string_beside_conversations_that_repeat_it() -> None:
    sides = {"chosen": [user("p"), bot("c")], "rejected": [user("p"), bot("r")]}
    expected = Preference([user("p")], ([bot("c")], [bot("r")]), (True, False))
    assert read({"prompt": "p", **sides}) == expected
    assert read({"prompt": [user("p")], **sides}) == expected
    assert read({"prompt": "p", "chosen": [bot("c")], "rejected": [bot("r")]}) == expected


def test_a_prompt_string_beside_an_unpaired_conversation() -> None:
    expected = Preference([user("p")], ([bot("c")],), (True,))
    for completion in ([bot("c")], [user("p"), bot("c")]):
        assert read({"prompt": "p", "completion": completion, "label": True}) == expected


def test_a_question_that_the_conversations_do_not_repeat_is_not_lost() -> None:
    shared = [bot("4"), user("And 3+3?")]
    row = {"prompt": "What is 2+2?", "chosen": [*shared, bot("6")], "rejected": [*shared, bot("7")]}
    expected = Preference([user("What is 2+2?"), *shared], ([bot("6")], [bot("7")]), (True, False))
    assert read(row) == expected
    assert read({**row, "prompt": expected.prompt[:1]}).prompt == expected.prompt[:1]
    # Another question first: which of the two is the prompt, the row does not say.
    other = {side: [user("Hi"), bot(side)] for side in ("chosen", "rejected")}
    found = problem({"prompt": "Answer in rhyme.", **other})
    assert found.reason == "bad_type"
    assert "chosen has the roles user, assistant behind the prompt" in str(found)


@pytest.mark.parametrize("prompt", ["Be kind.", "Hi", " Hi\n", ""])
def test_conversations_that_repeat_the_prompt_take_its_place(prompt: str) -> None:
    head = [{"role": "system", "content": "Be kind."}, user("Hi")]
    row = {"prompt": prompt, "chosen": [*head, bot("a")], "rejected": [*head, bot("b")]}
    assert read(row) == Preference(head, ([bot("a")], [bot("b")]), (True, False))
    if prompt:
        liked = {"prompt": prompt, "completion": [*head, bot("a")], "label": True}
        assert read(liked) == Preference(head, ([bot("a")],), (True,))


def test_keys_that_are_null_are_left_out_and_others_kept() -> None:
    message = {"content": "c", "role": "assistant", "tool_calls": None, "name": "x"}
    row = read({"prompt": [user("p")], "completion": [message], "label": True})
    assert row.completions == ([{"content": "c", "role": "assistant", "name": "x"}],)


@pytest.mark.parametrize(
    ("row", "reason", "part"),
    [
        ({"prompt": "p", "chosen": None, "rejected": "r"}, "bad_type", "column chosen is null"),
        ({"prompt": 3, "chosen": "c", "rejected": "r"}, "bad_type", "column prompt is number 3"),
        ({"prompt": "p", "chosen": "c", "rejected": [bot("r")]}, "bad_type", "mixes strings with messages"),
        ({"prompt": [user("p")], "chosen": "c", "rejected": "r"}, "bad_type", "mixes strings with messages"),
        (
            {"prompt": ["p"], "chosen": [bot("c")], "rejected": [bot("r")]},
            "bad_type",
            "prompt[0] is string 'p'",
        ),
        (
            {"prompt": [user("p")], "chosen": [{"role": "assistant"}], "rejected": []},
            "bad_type",
            "absent from the keys role",
        ),
        (
            {
                "prompt": [user("p")],
                "completion": [{"role": "assistant", "content": [{"type": "text"}]}],
                "label": 1,
            },
            "bad_type",
            "completion[0].content is array",
        ),
        (
            {"prompt": [user("p")], "completion": [bot("c"), user("d")], "label": 1},
            "bad_type",
            "assistant, user",
        ),
        (
            {"prompt": [user("p")], "completion": [{"role": "gpt", "content": "c"}], "label": 1},
            "bad_type",
            "gpt",
        ),
        ({"prompt": "p", "chosen": " \n", "rejected": "r"}, "empty_completion", "chosen has no text"),
        ({"prompt": "p", "chosen": "c", "rejected": ""}, "empty_completion", "rejected has no text"),
        ({"prompt": [user("p")], "completion": [], "label": 1}, "empty_completion", "completion has no text"),
        ({"prompt": [user("p")], "completion": [bot(" ")], "label": 1}, "empty_completion", "completion"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, "chosen_equals_rejected", "same text"),
        (
            {"prompt": "p", "chosen": "\ud800", "rejected": "c"},
            "bad_type",
            "half a surrogate pair at character 0",
        ),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], reason: str, part: str) -> None:
    found = problem(row)
    assert found.reason == reason
    assert part in str(found)


def test_a_column_that_one_row_lacks() -> None:
    form = find_format({"prompt", "chosen", "rejected"}, [], "rows")
    with pytest.raises(RowProblem, match="column rejected is absent; found prompt, chosen"):
        list(form.read({"prompt": "p", "chosen": "c"}))


def test_wrong_columns_say_what_was_found_and_expected() -> None:
    with pytest.raises(
        DataError, match=r"wrong\.json: wrong columns; found answer, prompt; expected prompt, chosen"
    ):
        find_format(["prompt", "answer"], [], "wrong.json")
    with pytest.raises(DataError, match="fit both paired and unpaired data"):
        find_format(["prompt", "chosen", "rejected", "completion", "label"], [], "rows")


def test_columns_that_are_there_and_not_used_are_named() -> None:
    columns = ["prompt", "chosen", "rejected", "ref_chosen_logps", "source"]
    notes = find_format(columns, [], "rows").notes(columns)
    assert len(notes) == 1
    assert notes[0].startswith("column ref_chosen_logps:")


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [{**TOOL, "strict": None}]])
def test_tools_and_template_options_belong_to_the_row(tools: Any) -> None:
    sides = {"chosen": [user("a"), bot("b")], "rejected": [user("a"), bot("c")]}
    row = read({**sides, "tools": tools, "chat_template_kwargs": {"enable_thinking": False, "other": None}})
    assert row.tools == [TOOL]
    assert row.template_options == {"enable_thinking": False}


@pytest.mark.parametrize("tools", [None, "", [], "[]"])
def test_no_tools(tools: Any) -> None:
    assert read({"prompt": "p", "chosen": "c", "rejected": "r", "tools": tools}).tools is None


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"tools": "{not json"}, "tools is a string that is no JSON"),
        ({"tools": 3}, "tools is number 3"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs is array"),
    ],
)
def test_tools_that_are_refused(extra: dict[str, Any], part: str) -> None:
    assert part in str(problem({"prompt": "p", "chosen": "c", "rejected": "r", **extra}))


def test_a_call_of_a_tool_is_an_answer() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather"}}]}
    row = read({"prompt": [user("p")], "chosen": [call], "rejected": [bot("r")]})
    assert row.completions[0] == [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather"}}]}
    ]
