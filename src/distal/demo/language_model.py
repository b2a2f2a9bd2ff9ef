"""A small Llama trained on the spot, and sampling from it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional

from distal.demo.tokenizer import special_ids
from distal.errors import DataError, NonFiniteError
from distal.progress import track

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

__all__ = ["LanguageModelConfig", "build_language_model", "mean_token_loss", "train_language_model"]


@dataclass(frozen=True, slots=True)
class LanguageModelConfig:
    """Shape and training of a small Llama; the defaults suit 10,000 short texts and two CPU cores.

    Attributes:
        hidden_size: width of the residual stream.
        layers: number of transformer blocks.
        heads: attention heads; `hidden_size` is a multiple of it.
        mlp_size: width inside the gated MLP.
        max_length: longest sequence in tokens; longer texts are cut into pieces of this length.
        tokens_per_batch: tokens of an optimizer step, padding included.
        learning_rate: peak; it rises over the first `warmup` share of the steps, then falls to a tenth as a
            cosine.
        warmup: share of the steps.
        weight_decay: of the matrices, not of the norms.
    """

    hidden_size: int = 192
    layers: int = 2
    heads: int = 6
    mlp_size: int = 512
    max_length: int = 256
    tokens_per_batch: int = 512
    learning_rate: float = 1.4e-3
    warmup: float = 0.05
    weight_decay: float = 0.1


def build_language_model(
    tokenizer: PreTrainedTokenizerBase, config: LanguageModelConfig | None = None, *, seed: int = 0
) -> LlamaForCausalLM:
    """A `LlamaForCausalLM` with random weights and tied embeddings, in float32, drawn from `seed` alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config, special = config or LanguageModelConfig(), special_ids(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.mlp_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                max_position_embeddings=config.max_length,
                tie_word_embeddings=True,
                bos_token_id=special.bos,
                eos_token_id=special.eos,
                pad_token_id=special.pad,
            )
        )


def train_language_model(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    config: LanguageModelConfig | None = None,
    epochs: float = 5.0,
    max_steps: int | None = None,
    seed: int = 0,
    progress: str | None = "training the language model",
) -> LlamaForCausalLM:
    """Trains a small Llama on `texts` by maximum likelihood (AdamW, cross-entropy on real tokens only).

    Batches hold texts of about equal length, so that hardly anything is spent on padding.

    Args:
        texts: training texts; each becomes beginning-of-text, its tokens, end-of-text.
        tokenizer: with beginning-of-text, end-of-text and padding tokens.
        config: shape of the model and of its training.
        epochs: passes over the texts.
        max_steps: number of optimizer steps instead of `epochs`.
        seed: of weights and order; the same seed and thread count give the same model.
        progress: title of the progress bar, or None for no bar.

    Returns:
        The trained model in evaluation mode.

    Raises:
        DataError: there are no texts.
        NonFiniteError: the loss is NaN or infinite.
    """
    config = config or LanguageModelConfig()
    sequences, pad = _encode(texts, tokenizer, config.max_length), special_ids(tokenizer).pad
    model = build_language_model(tokenizer, config, seed=seed).train()
    per_epoch = len(_length_batches(sequences, config.tokens_per_batch, random.Random(seed)))
    total = max_steps or max(1, round(epochs * per_epoch))
    optimizer = _optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, config.warmup))
    batches = _endless(sequences, config.tokens_per_batch, random.Random(seed))
    for step in track(range(total), progress):
        summed, count = _loss(model, next(batches), pad)
        loss = summed / count
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"the language model's loss is {loss.item()} at step {step}; lower learning_rate, which is "
                f"{config.learning_rate}"
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def mean_token_loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> float:
    """Mean negative log-likelihood per token in nats, end-of-text tokens included."""
    sequences = _encode(texts, tokenizer, model.config.max_position_embeddings)
    pad = special_ids(tokenizer).pad
    totals = [_loss(model, batch, pad) for batch in _length_batches(sequences, 8192, random.Random(0))]
    return sum(summed.item() for summed, _ in totals) / sum(count for _, count in totals)


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """Token ids with both special tokens, cut into pieces of at most `max_length`."""
    if not texts:
        raise DataError("a language model needs at least one text to train on, got none")
    special = special_ids(tokenizer)
    encoded = cast(list[list[int]], tokenizer(list(texts), add_special_tokens=False)["input_ids"])
    framed = ([special.bos, *ids, special.eos] for ids in encoded)
    pieces = (ids[start : start + max_length] for ids in framed for start in range(0, len(ids), max_length))
    return [piece for piece in pieces if len(piece) > 1]


def _length_batches(sequences: list[list[int]], tokens: int, order: random.Random) -> list[list[list[int]]]:
    """Batches of sequences of similar length, at most `tokens` padded tokens each, in random order."""
    shuffled = sorted(order.sample(sequences, len(sequences)), key=len)
    batches: list[list[list[int]]] = [[]]
    for sequence in shuffled:  # ascending, so the newest is the longest
        if batches[-1] and (len(batches[-1]) + 1) * len(sequence) > tokens:
            batches.append([])
        batches[-1].append(sequence)
    order.shuffle(batches)
    return batches


def _endless(sequences: list[list[int]], tokens: int, order: random.Random) -> Iterator[list[list[int]]]:
    while True:
        yield from _length_batches(sequences, tokens, order)


def _loss(model: LlamaForCausalLM, batch: list[list[int]], pad: int) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy of the real tokens, and their number.

    Padding stands on the right, where causal attention keeps it from every real token: no mask is needed.
    """
    width = max(map(len, batch))
    ids = torch.tensor([sequence + [pad] * (width - len(sequence)) for sequence in batch])
    lengths = torch.tensor([len(sequence) for sequence in batch])
    real = torch.arange(1, width) < lengths[:, None]
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[real]
    return functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][real], reduction="sum"), hidden.shape[0]


def _optimizer(model: LlamaForCausalLM, config: LanguageModelConfig) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    norms = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def _rate(step: int, total: int, warmup: float) -> float:
    """Multiple of the peak learning rate: linear rise, then a cosine down to a tenth."""
    rise = max(1, round(warmup * total))
    if step < rise:
        return (step + 1) / rise
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
