"""The work of a benchmark row: a model with random weights, and pairs of the lengths that real data has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

LENGTHS = Path(__file__).resolve().parents[1] / "data" / "lengths.json"

SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    # Small enough for two CPU cores: 5 million parameters in the layers, the rest in the vocabulary.
    "small": (
        MistralConfig,
        {
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": None,
        },
    ),
    "toy": (
        MistralConfig,
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "sliding_window": None,
        },
    ),
    "mistral-7b": (
        MistralConfig,
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "sliding_window": None,
        },
    ),
    "llama-3.1-8b": (
        LlamaConfig,
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    "qwen2.5-0.5b": (
        Qwen2Config,
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
}
VOCABULARIES = {"mistral-7b": 32768, "llama-3.1-8b": 128256, "qwen2.5-0.5b": 151936}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the study.

    Attributes:
        workload: `fixed` (every sequence `fixed_length` tokens, half of them completion) or a data set whose recorded
            lengths are drawn from.
        shape: of the model, a key of `SHAPES`.
        vocabulary: its size.
        dtype: of weights and computation on both sides.
        objective: `aot` or `dpo`.
        tuning: `full` or `lora` (r 16 on all linear layers of the blocks).
        pairs: of an optimizer batch.
        divide_lengths: recorded lengths are divided by this, for small machines.
        fixed_length: tokens of a sequence of `fixed`.
        warmup: steps that are not timed.
        steps: steps that are.
    """

    workload: str
    shape: str = "small"
    vocabulary: int = 32768
    dtype: str = "float32"
    objective: str = "aot"
    tuning: str = "full"
    pairs: int = 64
    divide_lengths: int = 4
    fixed_length: int = 64
    warmup: int = 1
    steps: int = 3
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Unique among the rows of a study."""
        natural = self.workload != "fixed" and self.shape == "small"
        lengths = f" lengths/{self.divide_lengths}" if natural else ""
        return f"{self.shape} {self.tuning} {self.objective} {self.workload}{lengths} {self.dtype} V={self.vocabulary}"

    def to_json(self) -> str:
        """For the command line of a process."""
        return json.dumps(asdict(self))


def length_triples(row: Row) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) tokens of every pair of the row, end-of-text tokens included."""
    n = row.pairs * (row.warmup + row.steps)
    if row.workload == "fixed":
        half = row.fixed_length // 2
        return [(row.fixed_length - half, half, half)] * n
    recorded: dict[str, Any] = json.loads(LENGTHS.read_text())["sets"][row.workload]
    random = Random(0)
    drawn = random.choices(recorded["triples"], k=n)
    shrink = row.divide_lengths
    return [(max(1, p // shrink), max(2, c // shrink), max(2, r // shrink)) for p, c, r in drawn]


def make_pairs(row: Row) -> list[dict[str, str]]:
    """Pairs of random words with these lengths."""
    random = Random(1)

    def words(count: int) -> str:
        return " ".join(f"w{random.randrange(3, row.vocabulary)}" for _ in range(count))

    # Both sides append the end-of-text token to completions.
    return [
        {"prompt": words(p), "chosen": " " + words(c - 1), "rejected": " " + words(r - 1)}
        for p, c, r in length_triples(row)
    ]


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token per word."""
    entries = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    words = Tokenizer(models.WordLevel(entries, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_model(row: Row, *, moved: bool = False) -> Any:
    """The checkpoint of a row, the same in every process; `moved` away from it as by some training."""
    kind, config = SHAPES[row.shape]
    torch.manual_seed(0)
    settings = kind(
        **config,
        vocab_size=row.vocabulary,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device(row.device):
        model: Any = AutoModelForCausalLM.from_config(settings, dtype=DTYPES[row.dtype])
    if moved:
        draw = torch.Generator(device=row.device).manual_seed(7)
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 2:
                    noise = torch.randn(p.shape, generator=draw, device=p.device)
                    p.add_((noise * 0.02 * p.float().std()).to(p.dtype))
    return model


def make_adapter(row: Row) -> Any:
    """The LoRA configuration; B is not zero, as in a run under way."""
    if row.tuning != "lora":
        return None
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)


def batch_order(
    row: Row, tokenizer: PreTrainedTokenizerFast, pairs: list[dict[str, str]], seed: int
) -> list[list[int]]:
    """Which pairs make up each optimizer batch in Distal's trainer; the other side is given the same batches."""
    from distal.data import OptimizerBatchSampler, prepare_dataset

    rows = prepare_dataset(pairs, tokenizer, max_length=None, on_bad_rows="error")
    return list(OptimizerBatchSampler(rows, row.pairs, seed=seed))
