"""Conversations are written by the chat template, and the prompt must be a prefix of the whole."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from distal.data.reasons import RowProblem
from distal.data.rendering import Rendered, render
from distal.data.schemas import Preference
from distal.errors import DataError, ModelError

QUESTION = [{"role": "user", "content": "why"}]
ANSWERS = ([{"role": "assistant", "content": "so"}], [{"role": "assistant", "content": "no"}])
TURNS = "{{% for m in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{start}{{% endif %}}"
PAIR = Preference(QUESTION, ANSWERS, (True, False))


def test_plain_text_is_left_as_it_is(words: PreTrainedTokenizerFast) -> None:
    row = Preference("p ", ("c", "r"), (True, False))
    assert render(row, 3, words, "rows") == Rendered(3, "p ", ("c", "r"), (True, False), templated=False)


def test_a_conversation_is_split_behind_the_generation_prompt(byte_level: PreTrainedTokenizerFast) -> None:
    row = render(PAIR, 0, byte_level, "rows")
    assert row.prompt == "<|im_start|>user\nwhy<|im_end|>\n<|im_start|>assistant\n"
    assert row.completions == ("so<|im_end|>\n", "no<|im_end|>\n")
    assert row.templated
    assert row.remarks == ()


def test_further_turns_of_the_user_are_remarked(byte_level: PreTrainedTokenizerFast) -> None:
    longer = [*ANSWERS[0], {"role": "user", "content": "and"}, *ANSWERS[1]]
    row = render(Preference(QUESTION, (longer,), (True,)), 0, byte_level, "rows")
    assert row.remarks == ("user_turn_in_completion",)
    assert row.completions[0].count("<|im_end|>") == 3
    plain = render(Preference("p", ("c\n\nHuman: x\n\nAssistant: y",), (True,)), 0, byte_level, "rows")
    assert plain.remarks == ("user_turn_in_completion",)


def test_a_template_that_ends_no_turn_gets_an_end(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = TURNS.format(turn=" {{ m.role }}: {{ m.content }}", start=" assistant:")
    row = render(PAIR, 0, words, "rows")
    assert row.completions == (" so</s>", " no</s>")
    assert row.remarks == ("end_added",)


def test_no_chat_template(words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"rows: row 7 is a conversation, but .*--chat-template FILE"):
        render(PAIR, 7, words, "rows")


def test_a_prompt_that_is_no_prefix_is_shown(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = TURNS.format(turn="<{{ m.role }}>{{ m.content }}", start="<assistant><think>")
    with pytest.raises(DataError, match="not the beginning of the whole") as caught:
        render(PAIR, 7, words, "rows")
    assert "<user>why<assistant><think>" in str(caught.value)
    assert "<user>why<assistant>so" in str(caught.value)


def test_a_template_may_refuse_a_row(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RowProblem, match="refuses the roles user: roles must alternate") as caught:
        render(PAIR, 0, words, "rows")
    assert caught.value.reason == "template_refused"


def test_a_template_that_is_no_template_is_not_blamed_on_the_rows(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = "{% for turn in messages %}\n{{ turn.content"
    with pytest.raises(
        ModelError, match=r"not valid Jinja: .* \(line 2 of the template\); .*--chat-template"
    ):
        render(PAIR, 0, words, "rows")
