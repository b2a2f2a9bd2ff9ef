from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from distal.demo.tokenizer import special_ids, train_tokenizer
from distal.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def tokenizer(split):
    return train_tokenizer([snippet.text for snippet in split.train], 1024)


@given(text=st.text())
@settings(max_examples=50)
def test_any_text_survives(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_held_out_snippets_survive_and_are_compressed(tokenizer, split):
    texts = [snippet.text for snippet in split.held_out]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert sum(map(len, encoded)) < 0.4 * sum(map(len, texts))


def test_vocabulary_has_the_size_asked_for_and_three_special_tokens(tokenizer):
    assert len(tokenizer) == 1024
    special = special_ids(tokenizer)
    assert sorted(special) == [0, 1, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")


def test_the_empty_prompt_is_the_beginning_of_text(tokenizer):
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id]


def test_auto_tokenizer_loads_what_was_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "a witty and  touching film , it's funny !"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert special_ids(loaded) == special_ids(tokenizer)
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text


def test_training_repeats(tokenizer, split):
    again = train_tokenizer([snippet.text for snippet in split.train], 1024)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="use 259 or more"):
        train_tokenizer(["a"], 258)


def test_a_tokenizer_without_padding_is_refused(tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    with pytest.raises(ModelError, match="no pad_token"):
        special_ids(bare)
