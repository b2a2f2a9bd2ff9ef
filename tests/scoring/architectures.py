"""Tiny random models of every kind that is scored, rows with every extreme, and the definition of a score."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from distal.types import TokenRow

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
THREE_LAYERS: dict[str, Any] = SMALL | {"num_hidden_layers": 3}
ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    # Caps, scales and windows chosen so small that ignoring them would change every score.
    "gemma2": Gemma2Config(
        **SMALL,
        head_dim=8,
        query_pre_attn_scalar=8,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=2.0,
        sliding_window=4,
    ),
    # Windows of four tokens and full attention by turns.
    "gemma3": Gemma3TextConfig(
        **THREE_LAYERS,
        head_dim=8,
        query_pre_attn_scalar=8,
        final_logit_softcapping=2.0,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "granite": GraniteConfig(**SMALL, logits_scaling=3.0, residual_multiplier=0.5, embedding_multiplier=2.0),
    "mistral": MistralConfig(**SMALL, sliding_window=4),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(
        **SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, output_router_logits=True
    ),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "olmo": OlmoConfig(**SMALL),
    "olmo2": Olmo2Config(**SMALL),
    "phi": PhiConfig(**SMALL),
    "gpt2": GPT2Config(
        vocab_size=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


def model_of(config: PreTrainedConfig, dtype: torch.dtype = torch.float32, kind: str | None = None) -> Any:
    """A model in evaluation mode, drawn in float32; `kind` of attention, None for transformers' choice."""
    torch.manual_seed(0)
    chosen = {} if kind is None else {"attn_implementation": kind}
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **chosen).eval().to(dtype)


def one_by_one(model: nn.Module, rows: list[TokenRow]) -> Tensor:
    """The definition, written out: one row at a time, all logits, log-softmax, completion tokens summed."""
    scores = []
    for row in rows:
        ids = torch.tensor([list(row.input_ids)])
        log_probs = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
        scores.append(
            sum(log_probs[t - 1, row.input_ids[t]] for t in range(row.prompt_length, len(row.input_ids)))
        )
    return torch.stack(scores)


def answers_to(prompt: list[int], *answers: list[int]) -> list[TokenRow]:
    """Rows with one prompt."""
    return [TokenRow(prompt + answer, len(prompt), True, 0, 0) for answer in answers]


def random_rows(seed: int = 0) -> list[TokenRow]:
    """Pairs, among them every extreme: the longest fill the model's 128 positions."""
    random = Random(seed)

    def ids(n: int) -> list[int]:
        return [random.randrange(3, 64) for _ in range(n)]

    same, long = ids(5), ids(100)
    return [
        *answers_to([1, *ids(6)], [*ids(9), 2], [*ids(3), 2]),
        *answers_to([1], [*ids(4), 2], [2]),  # a prompt of one token: what an empty one becomes
        *answers_to([1, *ids(11)], [7], [2]),  # answers of one token
        *answers_to([1, *same], [5, 6, 2], [5, 6, 2]),  # identical rows
        *answers_to([1, *same], ids(8), ids(1)),  # the same prompt in another pair
        *answers_to(long, ids(28), ids(27)),  # 128 tokens
        *answers_to([1, 5], ids(3)),  # a pair with two prompts
        *answers_to([1, 6], ids(2)),
    ]
