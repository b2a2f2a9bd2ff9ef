"""Token ids of prompts and of the texts that begin with them, each part tokenised once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextIds", "encoded"]

TRIED = 32
"""Texts on which the short way is compared with the tokenizer's own before it is taken."""


class TextIds:
    """Token ids of texts, those of `tokenizer(text, add_special_tokens=False)`, at less work.

    A tokenizer of the `tokenizers` library takes special tokens out of a text before anything else and tokenises what
    lies between them piece by piece. So a text is its beginning up to the last special token of its prompt, tokenised
    once for all texts that share it, and the rest from that token on. Special tokens whose place may depend on what
    stands before them do not count: those that swallow white space to their left, must stand between words, are looked
    for in normalised text, or may overlap with others or themselves. Nor are offsets asked for, which are half of some
    tokenizers' work. On the first texts both ways are gone; a tokenizer that disagrees, or whose class has methods of
    its own for this, is used as it is.

    Args:
        tokenizer: a Hugging Face tokenizer, fast or slow.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = _backend(tokenizer)
        self._separators: list[str] = []
        self._tried_with = -1  # entries of the vocabulary

    def of(self, texts: Iterable[tuple[str, str]]) -> tuple[dict[str, list[int]], list[list[int]]]:
        """Ids of each prompt by itself, and of each prompt with its completion, in order.

        Args:
            texts: (prompt, completion).
        """
        texts = list(texts)
        if self._backend is not None and len(self._tokenizer) != self._tried_with and texts:
            self._try(texts)
        return self._directly(texts) if self._backend is None else self._in_pieces(texts)

    def _directly(self, texts: Sequence[tuple[str, str]]) -> tuple[dict[str, list[int]], list[list[int]]]:
        """The tokenizer's own way."""
        prompts = list(dict.fromkeys(prompt for prompt, _ in texts))
        wholes = [prompt + completion for prompt, completion in texts]
        ids = encoded(self._tokenizer, [*prompts, *wholes])["input_ids"]
        return dict(zip(prompts, ids, strict=False)), ids[len(prompts) :]

    def _in_pieces(self, texts: Sequence[tuple[str, str]]) -> tuple[dict[str, list[int]], list[list[int]]]:
        """The short way."""
        cuts = {prompt: self._cut(prompt) for prompt, _ in texts}
        pieces = dict.fromkeys(
            piece
            for prompt, completion in texts
            for piece in (
                prompt[: cuts[prompt]],
                prompt[cuts[prompt] :],
                prompt[cuts[prompt] :] + completion,
            )
        )
        # A tokenizer file may ask for truncation and padding, and so may whoever used the tokenizer last.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = self._tokenizer.split_special_tokens
        found = self._backend.encode_batch_fast(list(pieces), add_special_tokens=False)
        ids = {piece: encoding.ids for piece, encoding in zip(pieces, found, strict=True)}
        prompts = {prompt: ids[prompt[:cut]] + ids[prompt[cut:]] for prompt, cut in cuts.items()}
        wholes = [
            ids[prompt[: cuts[prompt]]] + ids[prompt[cuts[prompt] :] + completion]
            for prompt, completion in texts
        ]
        return prompts, wholes

    def _cut(self, prompt: str) -> int:
        """Where the last special token of a prompt begins, or its own beginning."""
        return max([0, *(prompt.rfind(token) for token in self._separators)])

    def _try(self, texts: Sequence[tuple[str, str]]) -> None:
        """Choose the way by the first texts."""
        some, self._tried_with = texts[:TRIED], len(self._tokenizer)
        expected = self._directly(some)
        self._separators = separators(self._backend, [prompt for prompt, _ in texts])
        if self._in_pieces(some) != expected:
            self._backend = None


def encoded(
    tokenizer: Any, texts: list[str], *, add_special_tokens: bool = False, offsets: bool = False
) -> dict[str, Any]:
    """What a tokenizer makes of texts: lists under `input_ids` and, if asked for, `offset_mapping`.

    A tokenizer file may ask for padding or truncation, and a tokenizer warns of long texts: neither is wanted.

    Args:
        tokenizer: a Hugging Face tokenizer; one that is not fast has no offsets.
        texts: what is tokenised.
        add_special_tokens: put those in front and behind that the tokenizer puts around any text.
        offsets: whether the characters of each token are wanted.
    """
    found = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets,
        verbose=False,
    )
    return cast(dict[str, Any], found)


def _backend(tokenizer: Any) -> Any:
    """The `tokenizers.Tokenizer` that says all there is to say about a text, or None where a class adds to it."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    bases = {"__call__": PreTrainedTokenizerBase, "_encode_plus": PreTrainedTokenizerFast}
    own = [
        name
        for name, base in bases.items()
        if getattr(type(tokenizer), name, None) is not getattr(base, name, None)
    ]
    return None if own else tokenizer.backend_tokenizer


def separators(backend: Any, texts: Sequence[str]) -> list[str]:
    """Added tokens in some of the texts at which any text falls into parts that are tokenised each by itself.

    Args:
        backend: a `tokenizers.Tokenizer`.
        texts: where they are looked for.
    """
    added = list(backend.get_added_tokens_decoder().values())
    # Whether a token that must stand between words is one may depend on what stands behind a cut.
    if backend.encode_special_tokens or any(token.single_word for token in added):
        return []
    return [
        token.content
        for token in added
        if not (token.lstrip or token.normalized)
        and any(token.content in text for text in texts)
        and not any(_takes_a_part(other.content, token.content) for other in added)
    ]


def _takes_a_part(earlier: str, token: str) -> bool:
    """Whether an added token, or another copy of this one, that begins before it or where it begins may overlap it."""
    inside = token in earlier and earlier != token
    return inside or any(earlier.endswith(token[:length]) for length in range(1, len(token)))
