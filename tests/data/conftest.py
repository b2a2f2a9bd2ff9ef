"""Tokenizers for the tests of data: tiny ones built here, and real ones where the shared data is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BertGenerationTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Words of a fixed vocabulary, one token each, split at blanks: ids can be read off by hand."""
    words = ["<unk>", "<s>", "</s>", "a", "good", "bad", "film", "is", "it", "was", "the"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **special)


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """`word_tokenizer` with an end-of-text token (2) and no begin-of-text token."""
    return word_tokenizer(eos_token="</s>")


@pytest.fixture
def words_with_bos() -> PreTrainedTokenizerFast:
    """`word_tokenizer` that puts <s> (1) in front of every text."""
    tokenizer = word_tokenizer(eos_token="</s>", bos_token="<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences, with merges across blanks, and a ChatML template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        ["the film is good, the film is bad", "über größe ααα ααβ", "hello world, hello there   now"] * 4,
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def gpt2(shared_data: Path) -> PreTrainedTokenizerBase:
    """GPT-2's tokenizer, end-of-text doing for padding as well."""
    file = str(shared_data / "tokenizers" / "gpt2" / "tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def mistral(shared_data: Path) -> PreTrainedTokenizerBase:
    """Mistral's SentencePiece model as a fast tokenizer, with offsets."""
    return AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "mistral")


@pytest.fixture(scope="session")
def slow_mistral(shared_data: Path) -> PreTrainedTokenizerBase:
    """The same model run by the SentencePiece library: no offsets."""
    return BertGenerationTokenizer(vocab_file=str(shared_data / "tokenizers" / "mistral" / "tokenizer.model"))
