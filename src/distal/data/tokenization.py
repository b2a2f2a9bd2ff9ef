"""From strings to token ids, once and as a whole, with the place where the prompt's tokens end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from distal.data.text_ids import TextIds, encoded
from distal.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoder", "Encoding"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids of one prompt with its completion.

    Attributes:
        prompt: ids of the prompt, special tokens in front included; at least one.
        completion: ids of the completion with its end-of-text token; empty when the completion has no text.
        n_start: how many leading ids of the prompt are special tokens that begin any text, put there by the tokenizer
            or, as the begin-of-text token, by the chat template.
        merged: the tokenizer joins the end of the prompt with the completion; the joint token is in
            `completion`.
        cut_at_eos: the completion ran on behind an end-of-text token, and was cut there.
        mask: for each id of the completion whether it is scored; None for all.
    """

    prompt: list[int]
    completion: list[int]
    n_start: int
    merged: bool = False
    cut_at_eos: bool = False
    mask: list[bool] | None = None


class Encoder:
    """Tokenises prompts and completions with a Hugging Face tokenizer, fast or slow.

    Plain text becomes `start + tokens(prompt + completion) + [eos]`, where `start` is what the tokenizer puts
    in front of any text (mostly the begin-of-text token or nothing). Text from a chat template is taken as it
    stands, since templates write special tokens themselves. The first token must have one before it to be
    scored from, so that an empty prompt becomes the begin-of-text token, or the end-of-text token where there
    is none.

    Args:
        tokenizer: a Hugging Face tokenizer.

    Raises:
        ModelError: the tokenizer has no end-of-text token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-text token, so that a completion would never end; name the model's own "
                'in its tokenizer_config.json, for instance "eos_token": "<|endoftext|>" (from Python: set '
                "tokenizer.eos_token)"
            )
        self._eos = cast(int, tokenizer.eos_token_id)
        self._unknown = tokenizer.unk_token_id
        self._bos = cast(int | None, tokenizer.bos_token_id)
        self._text_ids = TextIds(tokenizer)
        self._start = self._find_start()

    def encode(
        self,
        texts: Sequence[tuple[str, str]],
        *,
        templated: bool,
        spans: Sequence[Sequence[tuple[int, int]] | None] | None = None,
    ) -> list[Encoding]:
        """Tokenise (prompt, completion) texts.

        Args:
            texts: the texts; both sides of a pair repeat its prompt, which is tokenised once.
            templated: the texts come from a chat template.
            spans: for each text the characters of prompt + completion that are scored, None for all behind the prompt.
                A token is scored if any of its characters is.
        """
        if not texts:
            return []
        spans = [None] * len(texts) if spans is None else spans
        offsets: Sequence[Any] = [None] * len(texts)
        if self._tokenizer.is_fast and any(scored is not None for scored in spans):
            prompt_ids, _ = self._text_ids.of((prompt, "") for prompt, _ in texts)
            placed = encoded(self._tokenizer, ["".join(text) for text in texts], offsets=True)
            wholes, offsets = placed["input_ids"], placed["offset_mapping"]
        else:
            prompt_ids, wholes = self._text_ids.of(texts)
        found: list[Encoding] = []
        for (prompt, completion), ids, places, scored in zip(texts, wholes, offsets, spans, strict=True):
            mask = None if scored is None else self._mask(prompt + completion, ids, places, scored)
            found.append(self._split(prompt, completion, prompt_ids[prompt], ids, mask, templated=templated))
        return found

    def _split(
        self,
        prompt: str,
        completion: str,
        prompt_ids: list[int],
        whole: list[int],
        scored: list[bool] | None,
        *,
        templated: bool,
    ) -> Encoding:
        cut = len(prompt_ids)
        # The unknown token is the same for any text, so that equal ids do not mean equal texts.
        unsure = cut > 0 and prompt_ids[-1] == self._unknown
        if whole[:cut] != prompt_ids or unsure:
            cut = self._boundary(prompt, completion, prompt_ids, whole)
        merged = cut != len(prompt_ids) or whole[:cut] != prompt_ids
        head, tail, cut_at_eos = whole[:cut], whole[cut:], False
        mask, n_start = None if scored is None else scored[cut:], 0
        if not templated:
            head, n_start = self._with_start(head)
            if mask is not None:  # an end that is put there belongs to what it ends
                mask = [*mask, *mask[-1:]][: self._end(tail) + 1]
            tail, cut_at_eos = self._with_one_end(tail)
        elif self._bos is not None and head[:1] == [self._bos]:
            n_start = 1
        if not head:
            head, n_start = [self._first_token()], 1
        return Encoding(head, tail, n_start, merged, cut_at_eos, mask)

    def _boundary(self, prompt: str, completion: str, prompt_ids: list[int], whole: list[int]) -> int:
        """Where the prompt ends when it tokenises differently on its own: the last boundary inside it."""
        if not self._tokenizer.is_fast:
            return _common_length(prompt_ids, whole)
        spans = encoded(self._tokenizer, [prompt + completion], offsets=True)["offset_mapping"][0]
        cut = 0
        while cut < len(spans) and spans[cut][0] < len(prompt) and spans[cut][1] <= len(prompt):
            cut += 1
        # Byte-level tokens may hold a part of a character: no character is torn apart.
        while 0 < cut < len(spans) and spans[cut][0] < spans[cut - 1][1]:
            cut -= 1
        return cut

    def _with_start(self, ids: list[int]) -> tuple[list[int], int]:
        """Put the tokenizer's leading special tokens in front, unless the text has written them itself."""
        if self._start and ids[: len(self._start)] == self._start:
            return ids, len(self._start)
        return self._start + ids, len(self._start)

    def _with_one_end(self, ids: list[int]) -> tuple[list[int], bool]:
        """End a completion with exactly one end-of-text token; nothing that follows it could be generated."""
        end = self._end(ids)
        return ([*ids[:end], self._eos] if end > 0 else []), end + 1 < len(ids)

    def _end(self, ids: list[int]) -> int:
        """Where the first end-of-text token stands, or should."""
        return ids.index(self._eos) if self._eos in ids else len(ids)

    def _mask(
        self,
        text: str,
        ids: list[int],
        offsets: Sequence[tuple[int, int]] | None,
        spans: Sequence[tuple[int, int]],
    ) -> list[bool]:
        """For each token of a text whether any of its characters lies in one of the spans."""
        if offsets is not None:
            return [any(a < end and start < max(b, a + 1) for start, end in spans) for a, b in offsets]
        # Without offsets, a token stands where the beginnings of a text that end before it and behind it differ.
        mask = [False] * len(ids)
        for start, end in spans:
            first, last = (_common_length(self._ids([text[:cut]])[0], ids) for cut in (start, end))
            torn = last < len(ids) and self._ids([text[:end]])[0] != ids[:last]
            mask[first : last + torn] = [True] * (last + torn - first)
        return mask

    def _first_token(self) -> int:
        return self._eos if self._bos is None else self._bos

    def _find_start(self) -> list[int]:
        """The special tokens that the tokenizer puts in front of a text."""
        for probe in ("a", "the", "1"):
            bare = self._ids([probe])[0]
            dressed: list[int] = encoded(self._tokenizer, [probe], add_special_tokens=True)["input_ids"][0]
            for start in range(len(dressed) - len(bare) + 1):
                if bare and dressed[start : start + len(bare)] == bare:
                    return dressed[:start]
        return []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return encoded(self._tokenizer, texts)["input_ids"]


def _common_length(left: list[int], right: list[int]) -> int:
    """Length of the shared beginning of two lists."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
