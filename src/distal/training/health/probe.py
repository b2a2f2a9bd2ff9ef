"""A look at what the policy itself would say: token entropy, and greedy answers, on a few fixed rows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from distal.scoring import autocast, mean_token_entropy, unwrap
from distal.scoring.compilation import uncompiled
from distal.types import RowSource, TokenRow

__all__ = ["Probe"]


class Probe:
    """Fixed rows on which a policy is measured from time to time; draws no random numbers.

    All ranks measure the same rows, so that sharded weights are gathered in step.

    Args:
        rows: prompts with the completions in whose context the entropy is taken.
        new_tokens: longest greedy answer, tokens; None for no answers.
        entropy: whether the entropy is measured.
        autocast_dtype: mixed precision, as in training.
    """

    def __init__(
        self,
        rows: Sequence[TokenRow],
        *,
        new_tokens: int | None = None,
        entropy: bool = True,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        self.rows, self.new_tokens, self.entropy = rows, new_tokens, entropy
        self.autocast_dtype = autocast_dtype

    @classmethod
    def of(cls, dataset: RowSource, size: int, **options: Any) -> Probe:
        """A probe on `size` units spread evenly over a data set, the first row of each."""
        count = min(size, len(dataset))
        return cls([dataset[i * len(dataset) // count][0] for i in range(count)], **options)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Measure a policy as it is now.

        Returns:
            probe_entropy: mean entropy of the next token at completion positions, nats, if asked for.
            probe_length: mean length of the answers, tokens, the end-of-text token included, if asked for.
        """
        found: dict[str, float] = {}
        device = next(model.parameters()).device
        with (
            uncompiled(model),
            _evaluating(model),
            torch.no_grad(),
            autocast(device, self.autocast_dtype),
        ):
            if self.entropy:
                found["probe_entropy"] = mean_token_entropy(model, self.rows)
            if self.new_tokens is not None:
                lengths = [_answer_length(model, row, self.new_tokens) for row in self.rows]
                found["probe_length"] = sum(lengths) / len(lengths)
        return found


def _answer_length(model: nn.Module, row: TokenRow, new_tokens: int) -> int:
    from transformers import GenerationConfig

    inner: Any = unwrap(model)
    prompt = torch.tensor([row.input_ids[: row.prompt_length]], device=next(model.parameters()).device)
    ends = inner.generation_config.eos_token_id
    # A configuration of its own: the model's may ask for sampling, or stop elsewhere.
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0] if isinstance(ends, list) else ends,
    )
    answer = inner.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    return int(answer.shape[1] - prompt.shape[1])


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
