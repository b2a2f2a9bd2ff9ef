"""Ids of texts in pieces are those of the tokenizer itself, whatever its special tokens are like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from distal.data.text_ids import TextIds

CORPUS = ["the cat sat on the mat.\n", "user: hello  there\nassistant: I am é well\n\n", "a b c d e f g"] * 3
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")


def fast(backend: Any, trainer: Any, special: tuple[AddedToken, ...]) -> PreTrainedTokenizerFast:
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def plain(**flags: bool) -> tuple[AddedToken, ...]:
    return tuple(AddedToken(token, special=True, **({"normalized": False} | flags)) for token in SPECIAL)


def byte_level(*special: AddedToken, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    return fast(backend, trainer, special or plain())


def metaspace(scheme: str, *special: AddedToken) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer: Any = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    return fast(backend, trainer, special or plain())


def prepended() -> PreTrainedTokenizerFast:
    """As the older files of Llama: a normaliser that writes the space before each part of a text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer: Any = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], show_progress=False)
    return fast(backend, trainer, plain())


def word_piece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer: Any = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False)
    return fast(backend, trainer, plain())


OVERLAPPING = (*plain(), AddedToken("<|end|><|user|>", normalized=False), AddedToken("x<", normalized=False))
BORDERED = tuple(AddedToken(token, normalized=False) for token in ("###", "\n\n", "  "))
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "byte-level, prefix space": lambda: byte_level(add_prefix_space=True),
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "prepended": prepended,
    "word-piece": word_piece,
    "swallow left": lambda: byte_level(*plain(lstrip=True)),
    "swallow right": lambda: byte_level(*plain(rstrip=True)),
    "swallow both": lambda: metaspace("first", *plain(lstrip=True, rstrip=True)),
    "single words": lambda: byte_level(*plain(single_word=True)),
    "normalised": lambda: metaspace("first", *plain(normalized=True)),
    "overlapping": lambda: byte_level(*OVERLAPPING),
    "overlapping themselves": lambda: byte_level(*plain(), *BORDERED),
    "single word beside": lambda: byte_level(*plain(), AddedToken("the", single_word=True, normalized=False)),
}
MADE = {name: make() for name, make in TOKENIZERS.items()}
WORDS = st.sampled_from(
    [*SPECIAL, "the", "cat", " ", "  ", "\n", "é", "x", "X", "<", "|>", "#", "###", "user: "]
)
TEXTS = st.lists(WORDS, max_size=8).map("".join)


def own_ids(tokenizer: Any, text: str) -> list[int]:
    """What the tokenizer says of one text by itself."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def agrees(ids: TextIds, tokenizer: Any, texts: list[tuple[str, str]]) -> None:
    prompts, wholes = ids.of(texts)
    assert prompts == {prompt: own_ids(tokenizer, prompt) for prompt, _ in texts}
    assert wholes == [own_ids(tokenizer, prompt + completion) for prompt, completion in texts]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(first=st.tuples(TEXTS, TEXTS), later=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_ids_are_those_of_the_tokenizer(
    name: str, first: tuple[str, str], later: list[tuple[str, str]]
) -> None:
    """The first texts decide which way is gone; it must be right for whatever comes later."""
    tokenizer = MADE[name]
    ids = TextIds(tokenizer)
    agrees(ids, tokenizer, [first, ("<|user|>the cat<|end|>\n<|assistant|>", "x")])
    agrees(ids, tokenizer, later)


def test_a_shared_beginning_is_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    ids = TextIds(tokenizer)
    prompt = "<|user|>the cat<|end|>\n<|assistant|>"
    texts = [(prompt, f" {word}<|end|>") for word in ("a", "b", "c")]
    ids.of(texts)
    seen: list[str] = []

    class Seen:
        def encode_batch_fast(self, some: list[str], **options: Any) -> Any:
            seen.extend(some)
            return tokenizer.backend_tokenizer.encode_batch_fast(some, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer.backend_tokenizer, name)

    monkeypatch.setattr(ids, "_backend", Seen())
    ids.of(texts)
    assert sorted(seen) == sorted(
        ["<|user|>the cat<|end|>\n", "<|assistant|>", *(f"<|assistant|> {w}<|end|>" for w in "abc")]
    )


def test_what_others_asked_the_tokenizer_for_is_not_kept() -> None:
    tokenizer = byte_level()
    ids = TextIds(tokenizer)
    texts = [("<|user|>the cat sat on the mat<|assistant|>", "the cat"), ("a", "b")]
    expected = ids.of(texts)
    tokenizer(["the cat sat", "a"], truncation=True, max_length=1)
    tokenizer("<|user|>", split_special_tokens=True)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert ids.of(texts) == expected


def test_special_tokens_that_are_text_cut_nothing() -> None:
    tokenizer = byte_level()
    tokenizer.split_special_tokens = True
    agrees(TextIds(tokenizer), tokenizer, [("<|user|>the<|assistant|>", "<|end|>"), ("<|user|>", "")])


def test_a_tokenizer_with_a_will_of_its_own_is_asked_itself() -> None:
    class Lower(PreTrainedTokenizerFast):
        """Does something to texts that its backend knows nothing of."""

        def __call__(self, text: Any = None, *args: Any, **options: Any) -> Any:
            lowered = text.lower() if isinstance(text, str) else [one.lower() for one in text]
            return super().__call__(lowered, *args, **options)

    tokenizer = Lower(tokenizer_object=byte_level().backend_tokenizer, eos_token="</s>")
    ids = TextIds(tokenizer)
    agrees(ids, tokenizer, [("<|user|>the cat<|assistant|>", "x"), ("the", "cat")])
    agrees(ids, tokenizer, [("<|user|>THE CAT<|assistant|>", "X"), ("the", "Cat")])


@pytest.mark.parametrize("file", ["gpt2/tokenizer.json"])
def test_real_tokenizers(file: str, shared_data: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(shared_data / "tokenizers" / file))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"], "eos_token": "<|im_end|>"})
    turns = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    texts = [
        (turns.format(text), f"{answer}<|im_end|>\n")
        for text in ("", "  What?\n", "naïve 😀 text", "<|im_end|>")
        for answer in ("", " yes", "\n\nNo.", "<|im_start|>")
    ]
    agrees(TextIds(tokenizer), tokenizer, texts)


@pytest.mark.parametrize(
    ("other", "prompt"),
    [
        ("<|end|><|user|>", "a<|end|><|user|>b"),
        ("x<", "x<|user|>b"),
        ("<|user|>!", "<|user|>!"),
        ("###", "###a####b"),
        ("\n\n", "\n\na\n\n\nb"),
    ],
)
def test_tokens_that_others_may_swallow_cut_nothing(other: str, prompt: str) -> None:
    """Where a longer token, or one that begins earlier, takes a part of a special token, that one is not there."""
    tokenizer = byte_level(*plain(), AddedToken(other, normalized=False))
    ids = TextIds(tokenizer)
    agrees(ids, tokenizer, [("<|user|>a<|end|>b", "c"), ("a###b\n\nc", "c")])
    agrees(ids, tokenizer, [(prompt, "c")])


def test_tokens_that_are_added_later_count() -> None:
    tokenizer = byte_level()
    ids = TextIds(tokenizer)
    agrees(ids, tokenizer, [("<|user|>a", "b")])
    tokenizer.add_tokens([cast(Any, AddedToken("x<", normalized=False))])
    agrees(ids, tokenizer, [("x<|user|>a", "b")])


def test_words_that_stand_alone_stay_so_at_a_cut() -> None:
    """`foo` is no word in `foobar_sep`, although `bar_sep` is a token of its own."""
    tokenizer = byte_level(
        *plain(),
        AddedToken("foo", single_word=True, normalized=False),
        AddedToken("bar_sep", normalized=False),
    )
    ids = TextIds(tokenizer)
    agrees(ids, tokenizer, [("a bar_sep", "b")])
    agrees(ids, tokenizer, [("foobar_sep", "b")])
