"""A byte-pair tokenizer trained on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from distal.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["BOS", "EOS", "PAD", "SpecialIds", "special_ids", "train_tokenizer"]

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
_SPECIAL = [PAD, BOS, EOS]
_ALPHABET = 256  # byte-level: every text can be written, so there is no unknown token


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer.

    Encoding puts the beginning-of-text token first (so that the empty prompt is one token), and no
    end-of-text token last. Any text survives encoding and decoding unchanged.

    Args:
        texts: what the merges are learnt from.
        vocab_size: number of tokens, with the 256 bytes and the three special tokens; fewer come out where
            the texts are too few for so many merges.

    Returns:
        A tokenizer with `bos_token`, `eos_token` and `pad_token`, which `AutoTokenizer` can load once saved.

    Raises:
        ConfigError: `vocab_size` has no room for the bytes and the special tokens.

    Examples:
        >>> tokenizer = train_tokenizer(["a witty film", "a dull film"], vocab_size=300)
        >>> tokenizer.decode(tokenizer("a dull film")["input_ids"])
        '<s>a dull film'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    least = _ALPHABET + len(_SPECIAL)
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size={vocab_size} has no room for 256 bytes and 3 special tokens: use {least} or more"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


class SpecialIds(NamedTuple):
    """Ids of the tokens that frame a text."""

    bos: int
    eos: int
    pad: int


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Ids of the tokens for beginning of text, end of text and padding.

    Raises:
        ModelError: the tokenizer lacks one of them.
    """
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in SpecialIds._fields}
    missing = [f"{name}_token" for name, value in ids.items() if value is None]
    if missing:
        raise ModelError(f"the tokenizer has no {' and no '.join(missing)}: set it, or use another tokenizer")
    return SpecialIds(**cast(dict[str, int], ids))
