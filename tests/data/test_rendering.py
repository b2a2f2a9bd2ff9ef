"""Conversations are written by the chat template, and the prompt must be a prefix of the whole."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from distal.data.keys import prompt_key
from distal.data.reasons import RowProblem
from distal.data.rendering import Rendered, render
from distal.data.schemas import Preference
from distal.data.turns import LossOn
from distal.errors import DataError, ModelError

QUESTION = [{"role": "user", "content": "why"}]
ANSWERS = ([{"role": "assistant", "content": "so"}], [{"role": "assistant", "content": "no"}])
TURNS = "{{% for m in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{start}{{% endif %}}"
PAIR = Preference(QUESTION, ANSWERS, (True, False))


def test_plain_text_is_left_as_it_is(words: PreTrainedTokenizerFast) -> None:
    row = Preference("p ", ("c", "r"), (True, False))
    expected = Rendered(3, "p ", ("c", "r"), (True, False), templated=False, prompt_key=prompt_key(row))
    assert render(row, 3, words, "rows") == expected


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


@pytest.mark.parametrize(
    ("turn", "answer", "expected"),
    [
        (" {{ m.content }}", "bad \n", " bad \n</s>"),
        (" {{ m.role }}: {{ m.content }}\n", "bad", " bad\n</s>"),
        (" {{ m.role }}: {{ m.content | trim }}\n\n", " bad\n", " bad\n\n</s>"),
        (" {{ m.content }}", "bad</s>", " bad</s>"),
        (" {{ m.content }}\n", "bad</s>", " bad</s>\n"),
        (" {{ m.content }}</s>\n", "bad", " bad</s>\n"),
    ],
)
@pytest.mark.parametrize("loss_on", ["completion", "last_turn"])
def test_every_completion_ends_once(
    words: PreTrainedTokenizerFast, turn: str, answer: str, expected: str, loss_on: LossOn
) -> None:
    words.chat_template = TURNS.format(turn=turn, start=" assistant:" if "role" in turn else "")
    sides = ([{"role": "assistant", "content": answer}], [{"role": "assistant", "content": "fine"}])
    row = render(Preference(QUESTION, sides, (False, True)), 0, words, "rows", loss_on)
    assert row.completions[0] == expected
    assert row.completions[1].count("</s>") == 1
    assert row.spans == (None, None)  # the end is scored with what it ends


def test_an_end_behind_what_a_template_marks_is_scored_too(words: PreTrainedTokenizerFast) -> None:
    marked = "{% generation %}{{ m.content }}{% endgeneration %}{{ '\\n' }}"
    turn = "{% if m.role == 'user' %}{{ m.content }}{% else %}" + marked + "{% endif %}"
    words.chat_template = TURNS.format(turn=turn, start="")
    row = render(PAIR, 0, words, "rows", "assistant_turns")
    assert row.completions[0] == "so\n</s>"
    scored = [("why" + row.completions[0])[start:end] for start, end in row.spans[0] or ()]
    assert scored == ["so", "</s>"]


def test_a_conversation_does_not_begin_with_the_answer(words: PreTrainedTokenizerFast) -> None:
    words.chat_template = "<s>" + TURNS.format(turn=" {{ m.role }}: {{ m.content }}", start=" assistant:")
    with pytest.raises(RowProblem, match=r"the prompt holds no message.*give the user's message") as caught:
        render(Preference([], ANSWERS, (True, False)), 0, words, "rows")
    assert caught.value.reason == "template_refused"


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("{{ messages[5].content }}", "has no element 5"),
        ("{{ '%(missing)s' % m }}", r"KeyError\('missing'\)"),
        ("{{ '{} {}'.format(1) }}", r"IndexError\("),
        ("{{ 1 | xmlattr }}", "no attribute 'items'"),
        ("{{ 1 // 0 }}", "by zero"),
    ],
)
def test_whatever_a_template_raises_is_a_refusal(
    words: PreTrainedTokenizerFast, fault: str, named: str
) -> None:
    words.chat_template = TURNS.format(turn=fault, start="")
    with pytest.raises(RowProblem, match=f"refuses the roles user: .*{named}") as caught:
        render(PAIR, 0, words, "rows")
    assert caught.value.reason == "template_refused"


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
