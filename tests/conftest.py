"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from distal.types import TokenRow

# The same examples on every machine: a change fails for what it did, not for what was drawn that day.
# `HYPOTHESIS_PROFILE=explore` draws new ones, and more of them, to search for what the fixed ones miss.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("explore", derandomize=False, deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in, or found in, the cache folder of whoever runs the tests."""
    os.environ["DISTAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data sets, or a skip where it is absent (`SHARED_DATA` points elsewhere)."""
    folder = Path(os.environ.get("SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data sets are not at {folder}; set SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Any]:
    """Factory of tiny random Llama models, the same weights for the same seed."""

    def make(*, dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any) -> Any:
        settings: dict[str, Any] = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            # Far from the near-uniform start, so that scores differ between rows and sorting has something to do;
            # at 0.2 one weight happens to have a gradient so near zero that AdamW makes rounding visible.
            "initializer_range": 0.1,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(LlamaConfig(**(settings | config)))
        return model.to(dtype)

    return make


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[TokenRow]]:
    """Factory of random token rows: pairs (chosen, rejected alternating) or samples with both labels."""

    def make(n_units: int, *, paired: bool = True, seed: int = 0, vocab: int = 64) -> list[TokenRow]:
        random = Random(seed)
        rows: list[TokenRow] = []
        for unit in range(n_units):
            prompt = [1] + [random.randrange(3, vocab) for _ in range(random.randrange(0, 9))]
            for side in range(2 if paired else 1):
                completion = [random.randrange(3, vocab) for _ in range(random.randrange(1, 14))] + [2]
                desirable = side == 0 if paired else unit % 3 != 0
                rows.append(
                    TokenRow(prompt + completion, len(prompt), desirable, unit, unit, random.gauss(-40, 5))
                )
        return rows

    return make


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whitespace tokenizer over w3 ... w63, matching the tiny models' 64 entries."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 64)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., list[dict[str, str]]]:
    """Factory of random preference pairs in the words of `word_tokenizer`."""

    def make(n: int, *, seed: int = 0) -> list[dict[str, str]]:
        random = Random(seed)

        def text(low: int, high: int) -> str:
            return " ".join(f"w{random.randrange(3, 64)}" for _ in range(random.randrange(low, high)))

        return [
            {"prompt": text(1, 6), "chosen": " " + text(1, 12), "rejected": " " + text(1, 12)}
            for _ in range(n)
        ]

    return make


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., list[dict[str, Any]]]:
    """Factory of random unpaired rows, two liked ones for each disliked one."""

    def make(n: int, *, seed: int = 0) -> list[dict[str, Any]]:
        random = Random(seed)

        def text(low: int, high: int) -> str:
            return " ".join(f"w{random.randrange(3, 64)}" for _ in range(random.randrange(low, high)))

        return [
            {"prompt": text(1, 6), "completion": " " + text(1, 12), "label": i % 3 != 2} for i in range(n)
        ]

    return make
