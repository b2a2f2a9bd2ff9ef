"""Which tokens are scored: pieces by hand, transformers' own masks, and TRL's tokenisation, template by template."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from distal.data import prepare_dataset
from distal.data.reasons import RowProblem
from distal.data.rendering import render
from distal.data.schemas import Preference
from distal.data.tokenization import Encoder, Encoding
from distal.data.turns import LossOn, transcript_turns
from distal.errors import ConfigError, DataError

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<think>", "</think>"]


@pytest.fixture
def letters() -> PreTrainedTokenizerFast:
    """One token per byte and per special token, so that nothing merges; <s> in front of every plain text."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bot(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def template(turn: str, said: str, start: str = "", before: str = "") -> str:
    """A template from how it writes a turn, what of it the assistant says, and its generation prompt."""
    marked = "{% generation %}" + said + "{% endgeneration %}"
    assistant = turn.replace("SAID", marked)
    other = turn.replace("SAID", said)
    return (
        f"{before}{{% for m in messages %}}{{% if m.role == 'assistant' %}}{assistant}{{% else %}}{other}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{start}{{% endif %}}"
    )


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
CHATML = template("<|im_start|>{{ m.role }}\nSAID", "{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n")
LLAMA3 = template(
    "<|header|>{{ m.role }}<|/header|>\n\nSAID",
    "{{ m.content | trim }}<|eot_id|>",
    "<|header|>assistant<|/header|>\n\n",
    "{{ bos_token }}",
)
ZEPHYR = template("<|{{ m.role }}|>\nSAID", "{{ m.content }}{{ eos_token }}\n", "<|assistant|>\n")
MISTRAL = (
    "{{ bos_token }}"
    + ALTERNATING
    + (
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{% generation %} {{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + ALTERNATING
    + "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}<end>\n{% endgeneration %}"
    "{% else %}{{ m.content | trim }}<end>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Thoughts of turns before the last question are taken out; a last turn without thoughts gets an empty block.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<result>{{ m.content }}</result><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }}{{ call.function.arguments | tojson }}</call>"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# An end-of-text token behind the conversation, not behind each turn.
PHI = CHATML.removesuffix("{% endif %}") + "{% else %}{{ eos_token }}{% endif %}"

QUESTION, DIALOGUE = [user("ask")], [bot("one"), user("more"), bot("two")]
PIECES = {
    "chatml": (CHATML, ["one<|im_end|>\n", "two<|im_end|>\n"]),
    "llama3": (LLAMA3, ["one<|eot_id|>", "two<|eot_id|>"]),
    "zephyr": (ZEPHYR, ["one</s>\n", "two</s>\n"]),
    "mistral": (MISTRAL, [" one</s>", " two</s>"]),
    "gemma": (GEMMA, ["one<end>\n", "two<end>\n"]),
    "phi": (PHI, ["one<|im_end|>\n", "two<|im_end|>\n</s>"]),
}


def without_marks(text: str) -> str:
    return re.sub(r"\{% (end)?generation %\}", "", text)


def encode(
    tokenizer: PreTrainedTokenizerFast, prompt: Any, completion: Any, loss_on: LossOn, **row: Any
) -> Encoding:
    made = render(Preference(prompt, (completion,), (True,), **row), 0, tokenizer, "rows", loss_on)
    texts = [(made.prompt, made.completions[0])]
    return Encoder(tokenizer).encode(texts, templated=made.templated, spans=made.spans)[0]


def scored(tokenizer: PreTrainedTokenizerFast, found: Encoding) -> list[str]:
    """The stretches of a completion that are scored, as text."""
    mask = found.mask if found.mask is not None else [True] * len(found.completion)
    assert len(mask) == len(found.completion)
    stretches: list[list[int]] = []
    for k, token in enumerate(found.completion):
        if mask[k] and (k == 0 or not mask[k - 1]):
            stretches.append([])
        if mask[k]:
            stretches[-1].append(token)
    return [cast(str, tokenizer.decode(ids)) for ids in stretches]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("name", PIECES)
def test_the_assistants_turns_by_hand(letters: PreTrainedTokenizerFast, name: str, marked: bool) -> None:
    text, pieces = PIECES[name]
    if name == "phi" and marked:
        pieces = ["one<|im_end|>\n", "two<|im_end|>\n"]  # its marks leave out what ends the conversation
    letters.chat_template = text if marked else without_marks(text)
    assert scored(letters, encode(letters, QUESTION, DIALOGUE, "assistant_turns")) == pieces
    assert scored(letters, encode(letters, QUESTION, DIALOGUE, "last_turn")) == pieces[-1:]
    whole = encode(letters, QUESTION, DIALOGUE, "completion")
    assert whole.mask is None
    # However many tokens are scored, the tokens are the template's own, special ones once each.
    ids: Any = letters.apply_chat_template([*QUESTION, *DIALOGUE], return_dict=False)
    for loss_on in ("completion", "last_turn", "assistant_turns"):
        found = encode(letters, QUESTION, DIALOGUE, loss_on)
        assert found.prompt + found.completion == ids
        assert found.prompt == whole.prompt
    assert ids.count(letters.bos_token_id) == ("bos_token" in text)


@pytest.mark.parametrize("name", PIECES)
def test_masks_are_those_of_transformers(letters: PreTrainedTokenizerFast, name: str) -> None:
    letters.chat_template = PIECES[name][0]
    earlier = [user("äh 🙂"), bot("über"), user("ask")]
    conversation = [*earlier, *DIALOGUE]
    theirs: Any = letters.apply_chat_template(
        conversation, return_dict=True, return_assistant_tokens_mask=True
    )
    found = encode(letters, earlier, DIALOGUE, "assistant_turns")
    assert found.mask is not None
    assert [int(one) for one in found.mask] == theirs["assistant_masks"][len(found.prompt) :]
    assert sum(theirs["assistant_masks"][: len(found.prompt)]) > 0  # turns of the prompt are never scored


SAID = st.text("aé🙂 \n", min_size=1, max_size=6).filter(str.strip)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(SAID, min_size=3, max_size=9), n_prompt=st.integers(0, 2))
def test_prefixes_find_what_marks_mark(
    letters: PreTrainedTokenizerFast, said: list[str], n_prompt: int
) -> None:
    """Turns found without the marks of a template, beside the mask that transformers makes of the marks."""
    turns = [(user, bot)[k % 2](text) for k, text in enumerate(said[: len(said) // 2 * 2])]
    cut = min(2 * n_prompt, len(turns) - 2) + 1
    for name in PIECES.keys() - {"phi"}:
        letters.chat_template = PIECES[name][0]
        theirs: Any = letters.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        letters.chat_template = without_marks(PIECES[name][0])
        found = encode(letters, turns[:cut], turns[cut:], "assistant_turns")
        ours = found.mask if found.mask is not None else [True] * len(found.completion)
        assert found.prompt + found.completion == theirs["input_ids"]
        assert [int(one) for one in ours] == theirs["assistant_masks"][len(found.prompt) :]


@pytest.mark.parametrize("name", [name for name in PIECES if name != "phi"])
def test_a_single_turn_is_scored_whole(letters: PreTrainedTokenizerFast, name: str) -> None:
    for text in (PIECES[name][0], without_marks(PIECES[name][0])):
        letters.chat_template = text
        expected = encode(letters, QUESTION, [bot("one")], "completion")
        for loss_on in ("last_turn", "assistant_turns"):
            found = encode(letters, QUESTION, [bot("one")], loss_on)
            assert scored(letters, found) == scored(letters, expected)


CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


def test_thoughts_are_as_the_template_has_them(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = QWEN3
    dialogue = [bot("one", reasoning_content="r1"), user("more"), bot("two", reasoning_content="r2")]
    assert scored(letters, encode(letters, QUESTION, dialogue, "assistant_turns")) == [
        "one<|im_end|>\n",
        "<think>\nr2\n</think>\n\ntwo<|im_end|>\n",
    ]


@pytest.mark.parametrize("thought", [None, "sum"])
def test_calls_of_tools_are_scored_and_their_results_are_not(
    letters: PreTrainedTokenizerFast, thought: str | None
) -> None:
    letters.chat_template = QWEN3
    call = bot("", tool_calls=CALL, **({} if thought is None else {"reasoning_content": thought}))
    results = [{"role": "tool", "content": "3"}, {"role": "tool", "content": "4"}]
    dialogue = [call, *results, bot("It is 3.", reasoning_content="ok")]
    first = "" if thought is None else "<think>\nsum\n</think>\n\n"
    pieces = [
        f'{first}<call>add{{"a": 1}}</call><|im_end|>\n',
        "<think>\nok\n</think>\n\nIt is 3.<|im_end|>\n",
    ]
    assert scored(letters, encode(letters, QUESTION, dialogue, "assistant_turns")) == pieces
    assert scored(letters, encode(letters, QUESTION, dialogue, "last_turn")) == pieces[1:]


def test_a_template_that_ends_no_turn(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = without_marks(template(" {{ m.role }}: SAID", "{{ m.content }}", " assistant: "))
    found = encode(letters, QUESTION, DIALOGUE, "assistant_turns")
    assert scored(letters, found) == ["one", "two</s>"]
    assert found.completion.count(cast(int, letters.eos_token_id)) == 1


def test_a_turn_that_cannot_be_found_is_refused_and_shown(letters: PreTrainedTokenizerFast) -> None:
    # The last turn is written in capitals, and two questions in a row are refused.
    letters.chat_template = ALTERNATING + (
        "<{{ m.role }}>{{ m.content | upper if loop.last else m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(
        DataError, match=r"rows: row 0: the prompt, as the chat template writes it, is not"
    ) as caught:
        encode(letters, QUESTION, DIALOGUE, "completion")
    assert "<user>ASK" in str(caught.value)
    letters.chat_template = letters.chat_template.replace("if loop.last", "if loop.last and m.role != 'user'")
    assert scored(letters, encode(letters, QUESTION, DIALOGUE, "last_turn")) == ["TWO"]
    with pytest.raises(DataError, match=r"the assistant's turn 0 of the completion") as caught:
        encode(letters, QUESTION, DIALOGUE, "assistant_turns")
    for part in ("<assistant>ONE", "<assistant>one<user>more", "{% generation %}"):
        assert part in str(caught.value)


def test_sides_that_the_template_writes_alike(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = CHATML
    sides = ([bot("one", reasoning_content="a")], [bot("one", reasoning_content="b")])
    with pytest.raises(RowProblem, match="writes both sides alike") as caught:
        render(Preference(QUESTION, sides, (True, False)), 0, letters, "rows")
    assert caught.value.reason == "chosen_equals_rejected"


def test_marks_that_mark_nothing(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = without_marks(CHATML) + "{% generation %}{% endgeneration %}"
    rows = [
        {"prompt": QUESTION, "completion": [bot(text)], "label": label}
        for text, label in (("a", 1), ("b", 0))
    ]
    with pytest.raises(DataError, match=r"nothing_scored|no token of a completion is scored"):
        prepare_dataset(rows, letters, loss_on="assistant_turns")
    with pytest.raises(DataError, match="loss_on='assistant_turns' leaves a completion without any token"):
        prepare_dataset(rows, letters, loss_on="assistant_turns", on_bad_rows="error")


def test_plain_transcripts(letters: PreTrainedTokenizerFast) -> None:
    text = " Yes.\n\nHuman: And?\n\nAssistant: No."
    assert scored(letters, encode(letters, "\n\nHuman: Hi\n\nAssistant:", text, "assistant_turns")) == [
        " Yes.",
        " No.</s>",
    ]
    assert scored(letters, encode(letters, "", text, "last_turn")) == [" No.</s>"]
    unanswered = " Yes.\n\nHuman: And?"
    assert scored(letters, encode(letters, "", unanswered, "assistant_turns")) == [" Yes."]
    assert encode(letters, "a", " b", "assistant_turns").mask is None
    cut = encode(letters, "a", " b</s>\n\nHuman: c\n\nAssistant: d", "assistant_turns")
    assert (scored(letters, cut), cut.cut_at_eos) == ([" b</s>"], True)
    assert transcript_turns("", "last_turn") == [(0, 0)]


def test_merged_tokens_count_as_scored(byte_level: PreTrainedTokenizerFast) -> None:
    """A token with any scored character is scored, as transformers has it; slow tokenizers agree."""
    text = "hello there, the film is good"
    spans = [[(0, 3), (6, 11), (14, 16)]]
    (found,) = Encoder(byte_level).encode([("", text)], templated=True, spans=spans)
    offsets = byte_level(text, return_offsets_mapping=True)["offset_mapping"]
    expected = [any(set(range(a, b)) & set(range(*span)) for span in spans[0]) for a, b in offsets]
    assert found.mask == expected
    assert True in expected
    assert False in expected


def test_slow_tokenizers_find_the_same_tokens(mistral: Any, slow_mistral: Any) -> None:
    prompt, text = "Why?", " Because it is so. Human: Really? Assistant: Yes, really."
    whole = prompt + text
    spans = [[(len(prompt), whole.index(" Human")), (whole.index(" Yes"), len(whole))]]
    fast, slow = (
        Encoder(tokenizer).encode([(prompt, text)], templated=True, spans=spans)[0]
        for tokenizer in (mistral, slow_mistral)
    )
    assert (fast.completion, fast.mask) == (slow.completion, slow.mask)


def test_rows_carry_their_masks(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = without_marks(CHATML)
    rows = [{"prompt": QUESTION, "chosen": DIALOGUE, "rejected": [bot("no")]}]
    plain, masked = (prepare_dataset(rows, letters, loss_on=on) for on in ("completion", "assistant_turns"))
    chosen, rejected = masked[0]
    assert chosen.input_ids == plain[0][0].input_ids
    assert chosen.completion_mask == encode(letters, QUESTION, DIALOGUE, "assistant_turns").mask
    assert rejected.completion_mask is None
    assert masked.scored_lengths.tolist() == [chosen.scored_length, rejected.completion_length]
    assert masked.fingerprint != plain.fingerprint
    assert set(plain.report.noted) == {"user_turn_in_completion"}
    assert set(masked.report.noted) == {"other_turn_not_scored"}
    # Where nothing is left out, rows and their cached scores are the same.
    single = [{"prompt": QUESTION, "chosen": [bot("yes")], "rejected": [bot("no")]}]
    found = {
        prepare_dataset(single, letters, loss_on=on).fingerprint for on in ("completion", "assistant_turns")
    }
    assert len(found) == 1
    with pytest.raises(
        ConfigError, match="loss_on='all': expected one of completion, last_turn, assistant_turns"
    ):
        prepare_dataset(rows, letters, loss_on=cast(Any, "all"))


def test_truncation_cuts_masks_too(letters: PreTrainedTokenizerFast) -> None:
    letters.chat_template = without_marks(CHATML)
    rows = [
        {"prompt": QUESTION, "completion": DIALOGUE, "label": True},
        {"prompt": QUESTION, "completion": [bot("no")], "label": False},
    ]
    whole = prepare_dataset(rows, letters, loss_on="assistant_turns")[0][0]
    assert whole.completion_mask is not None
    for n in (1, 10):
        cut = prepare_dataset(
            rows,
            letters,
            loss_on="assistant_turns",
            max_length=len(whole.input_ids) - n,
            truncation="truncate_completion",
        )
        assert cut[0][0].completion_mask == whole.completion_mask[:-n]
    room = whole.prompt_length + whole.completion_mask.index(False) + 2
    report = prepare_dataset(
        [*rows, {**rows[0], "completion": [bot("yes")]}],
        letters,
        loss_on="last_turn",
        max_length=room,
        truncation="truncate_completion",
    ).report
    assert {reason: count.first_rows for reason, count in report.dropped.items()} == {"nothing_scored": (0,)}
    shorter = prepare_dataset(
        rows,
        letters,
        loss_on="assistant_turns",
        max_length=len(whole.input_ids) - 3,
        truncation="truncate_prompt",
    )
    assert shorter[0][0].completion_mask == whole.completion_mask


TRL = importlib.util.find_spec("trl")
TEMPLATES = sorted(Path(str(TRL.origin)).parent.glob("chat_templates/*.jinja")) if TRL else []


@pytest.mark.skipif(not TEMPLATES, reason="TRL and its chat templates are not installed")
def test_published_templates(letters: PreTrainedTokenizerFast) -> None:
    """Tokens and prompt lengths are those of TRL, and masks those of transformers, or the row is refused."""
    from trl.data_utils import _tokenize, common_prefix_length

    plain = encode(letters, "ask", " one", "completion")
    assert plain.prompt == _tokenize(letters, "ask")["input_ids"]
    assert plain.prompt + plain.completion == _tokenize(letters, "ask one</s>")["input_ids"]
    dialogue = [bot("one", reasoning_content="r1"), user("more"), bot("two", reasoning_content="r2")]
    agreed, masked = 0, 0
    for path in TEMPLATES:
        letters.chat_template = path.read_text(encoding="utf-8")
        for completion in ([bot("one")], dialogue):
            try:
                found = encode(letters, QUESTION, completion, "assistant_turns")
            except (RowProblem, DataError):
                continue
            prompt: Any = _tokenize(letters, QUESTION, add_generation_prompt=True)["input_ids"]
            whole: Any = _tokenize(letters, [*QUESTION, *completion])["input_ids"]
            assert found.prompt == prompt, path.name
            assert common_prefix_length(prompt, whole) == len(prompt), path.name
            assert found.prompt + found.completion[: len(whole) - len(prompt)] == whole, path.name
            agreed += 1
            if path.stem.endswith("_training"):
                theirs: Any = letters.apply_chat_template(
                    [*QUESTION, *completion], return_dict=True, return_assistant_tokens_mask=True
                )
                ours = found.mask if found.mask is not None else [True] * len(found.completion)
                assert [int(one) for one in ours] == theirs["assistant_masks"][len(prompt) :], path.name
                masked += 1
    assert agreed >= 60
    assert masked >= 30
