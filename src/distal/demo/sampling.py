"""Texts drawn from a language model, from the beginning-of-text token alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from distal.demo.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

__all__ = ["sample_texts"]


def sample_texts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 80,
) -> list[str]:
    """Draws `n` texts; the same seed gives the same random numbers to any model.

    Args:
        model: a causal language model.
        tokenizer: the one it was trained with.
        n: number of texts, drawn in one batch.
        seed: of the draws; the global random state is left as it was.
        temperature: 1 is the model's own distribution.
        max_new_tokens: where a text that does not end is cut off.
    """
    special = special_ids(tokenizer)
    start = torch.full((n, 1), special.bos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokens = cast(Any, model).generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_new_tokens,
            pad_token_id=special.pad,
            eos_token_id=special.eos,
        )
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
