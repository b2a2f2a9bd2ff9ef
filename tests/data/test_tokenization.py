"""Prompts and completions as token ids: values by hand, invariances, and real tokenizers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distal.data.tokenization import Encoder, Encoding
from distal.errors import ModelError


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str, *, templated: bool = False
) -> Encoding:
    return Encoder(tokenizer).encode([(prompt, completion)], templated=templated)[0]


def test_values_by_hand(words: PreTrainedTokenizerFast) -> None:
    # Vocabulary: <unk> <s> </s> a good bad film is it was the
    assert encode(words, "the film", " is good") == Encoding([10, 6], [7, 4, 2], 0)


def test_an_empty_prompt_begins_with_the_end_token_where_there_is_no_other(
    words: PreTrainedTokenizerFast,
) -> None:
    assert encode(words, "", "good") == Encoding([2], [4, 2], 1)
    words.bos_token = "<s>"
    assert encode(words, "", "good") == Encoding([1], [4, 2], 1)


def test_the_begin_token_comes_once(words_with_bos: PreTrainedTokenizerFast) -> None:
    for prompt in ("film", "<s> film"):
        assert encode(words_with_bos, prompt, " good") == Encoding([1, 6], [4, 2], 1)
    assert encode(words_with_bos, "", "good") == Encoding([1], [4, 2], 1)


def test_the_end_token_comes_once_and_ends_the_completion(words: PreTrainedTokenizerFast) -> None:
    assert encode(words, "film", " good </s>") == Encoding([6], [4, 2], 0)
    assert encode(words, "film", " good </s> bad </s>") == Encoding([6], [4, 2], 0, cut_at_eos=True)
    assert encode(words, "</s> film", " good").prompt == [2, 6]


def test_a_tokenizer_that_appends_its_own_end_token(words_with_bos: PreTrainedTokenizerFast) -> None:
    words_with_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert encode(words_with_bos, "film", " good") == Encoding([1, 6], [4, 2], 1)


@pytest.mark.parametrize("completion", ["</s>", "</s> good", " "])
def test_completions_without_text_have_no_tokens(words: PreTrainedTokenizerFast, completion: str) -> None:
    assert encode(words, "film", completion).completion == []


def test_templates_write_their_own_special_tokens(words_with_bos: PreTrainedTokenizerFast) -> None:
    assert encode(words_with_bos, "<s> film", " good </s> bad </s>", templated=True) == Encoding(
        [1, 6], [4, 2, 5, 2], 1
    )
    assert encode(words_with_bos, "film", " good", templated=True) == Encoding([6], [4], 0)
    assert encode(words_with_bos, "", "good", templated=True) == Encoding([1], [4], 1)


def test_padding_and_truncation_stored_with_a_tokenizer_do_not_matter(words: PreTrainedTokenizerFast) -> None:
    core: Tokenizer = words.backend_tokenizer
    core.enable_padding(length=12)
    core.enable_truncation(2)
    assert encode(words, "the film", " is good") == Encoding([10, 6], [7, 4, 2], 0)


def test_a_tokenizer_without_an_end_token(words: PreTrainedTokenizerFast) -> None:
    words.eos_token = None
    with pytest.raises(ModelError, match=r"tokenizer_config\.json.*set tokenizer\.eos_token"):
        Encoder(words)


def test_a_token_across_the_boundary_belongs_to_the_completion(byte_level: PreTrainedTokenizerFast) -> None:
    found = encode(byte_level, "the fi", "lm is bad")
    assert found.merged
    assert byte_level.decode(found.prompt) == "the"
    assert byte_level.decode(found.completion[:-1]) == " film is bad"


def test_unknown_words_that_reach_across_the_boundary(words: PreTrainedTokenizerFast) -> None:
    # "film:" and "film:no" are both <unk>: equal ids, and yet the one token holds text of either side.
    assert encode(words, "the film:", "no good") == Encoding([10], [0, 4, 2], 0, merged=True)
    assert encode(words, "the film:", " no good") == Encoding([10, 0], [0, 4, 2], 0)


def test_a_prompt_that_is_merged_away_leaves_a_begin_token(byte_level: PreTrainedTokenizerFast) -> None:
    found = encode(byte_level, "th", "e film")
    assert (found.prompt, found.n_start, found.merged) == ([byte_level.eos_token_id], 1, True)


def test_no_character_is_torn_apart() -> None:
    # Alpha is the bytes CE B1, which a byte-level vocabulary writes as Î and ±. With the merge of ± and Î, two
    # alphas become Î ±Î ±: the first token lies inside the prompt "α", but holds half of its character.
    vocabulary = {"Î": 0, "±": 1, "±Î": 2, "</s>": 3}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("±", "Î")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    assert encode(tokenizer, "α", "α") == Encoding([3], [0, 2, 1, 3], 1, merged=True)


TEXT = st.text(alphabet=st.sampled_from("the film isgoodüßeα🙂\n \u2028\x00é́"), max_size=20)


@given(prompt=TEXT, completion=TEXT)
def test_nothing_is_lost_and_nothing_is_torn(
    byte_level: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    found = encode(byte_level, prompt, completion)
    head = byte_level.decode(found.prompt[found.n_start :])
    assert head == prompt[: len(head)]
    assert found.merged or head == prompt
    if completion:
        assert f"{head}{byte_level.decode(found.completion[:-1])}" == prompt + completion
        assert found.completion[-1] == byte_level.eos_token_id
        whole = byte_level(prompt + completion, add_special_tokens=False)["input_ids"]
        assert found.prompt[found.n_start :] + found.completion[:-1] == whole
    assert len(found.prompt) >= 1


@given(texts=st.lists(st.tuples(TEXT, TEXT), max_size=6))
def test_a_batch_is_its_members(byte_level: PreTrainedTokenizerFast, texts: list[tuple[str, str]]) -> None:
    encoder = Encoder(byte_level)
    assert encoder.encode(texts, templated=False) == [encode(byte_level, *text) for text in texts]


CASES = [
    ("Question: why?\n\nAnswer:", " Because."),
    ("Hello w", "orld"),
    ("", "Just this."),
    ("Ends with a blank ", "and goes on"),
    ("\n\nHuman: 2+2?\n\nAssistant:", " 4 🙂 naïve"),
]


@pytest.mark.parametrize(("prompt", "completion"), CASES)
@pytest.mark.parametrize("name", ["gpt2", "mistral", "slow_mistral"])
def test_real_tokenizers(request: pytest.FixtureRequest, name: str, prompt: str, completion: str) -> None:
    tokenizer = request.getfixturevalue(name)
    found = encode(tokenizer, prompt, completion)
    whole = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
    assert found.prompt[found.n_start :] + found.completion == [*whole, tokenizer.eos_token_id]
    # The SentencePiece form writes bytes that are no characters of its vocabulary by their codes.
    assert tokenizer.decode(found.prompt[found.n_start :]).replace("<0x0A>", "\n").strip() in prompt
    assert found.merged == (
        whole[: len(found.prompt) - found.n_start] != tokenizer(prompt, add_special_tokens=False)["input_ids"]
    )
    if not prompt:
        assert found.prompt == [tokenizer.eos_token_id if name == "gpt2" else tokenizer.bos_token_id]


@pytest.mark.parametrize(("prompt", "completion"), [case for case in CASES if case[0]])
def test_slow_and_fast_forms_of_a_tokenizer_agree(
    mistral: PreTrainedTokenizerBase, slow_mistral: PreTrainedTokenizerBase, prompt: str, completion: str
) -> None:
    # Prompts may differ in the blank that only the slow form puts in front of a text.
    fast, slow = (encode(tokenizer, prompt, completion) for tokenizer in (mistral, slow_mistral))
    assert (fast.completion, fast.merged) == (slow.completion, slow.merged)
