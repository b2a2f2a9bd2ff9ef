"""Answers by transformers in this process: sorted by length, padded on the left, with draws of each row's own."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from distal.data.reasons import RowProblem
from distal.data.rendering import prompt_as_text
from distal.data.tokenization import Encoder
from distal.errors import ConfigError, DataError
from distal.evaluation.generation.draws import RowDraws, StopStrings
from distal.evaluation.generation.engines import Keep
from distal.evaluation.generation.options import Generation, SamplingOptions, cut_at_stop, row_seed
from distal.evaluation.generation.prompts import Prompt
from distal.progress import follow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TransformersEngine", "encode_prompts"]


def encode_prompts(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of prompts as a model is to read them: messages through the chat template, strings as they are.

    Raises:
        DataError: messages without a chat template, or which the template refuses.
    """
    encoder = Encoder(tokenizer)
    found: list[list[int]] = []
    for prompt in prompts:
        row = prompt.row
        templated = not isinstance(row.prompt, str)
        if templated and not tokenizer.chat_template:
            raise DataError(
                f"row {prompt.source_row} of the prompts is a conversation, but there is no chat template; "
                "give one as a Jinja file (--chat-template FILE), or give plain strings without --chat"
            )
        try:
            text = prompt_as_text(tokenizer, row)
        except RowProblem as problem:
            raise DataError(
                f"row {prompt.source_row} of the prompts: {problem.detail}; {problem.remedy}"
            ) from problem
        found.append(encoder.encode([(text, "")], templated=templated)[0].prompt)
    return found


class TransformersEngine:
    """A model in this process.

    Greedy answers take the most probable token each time; otherwise `RowDraws` draws. Neither depends on the size or
    the order of batches, but for one thing that no padded batch can avoid: logits differ in their last bits with the
    shape of the batch, and where two tokens are that close, another one may be taken.

    Args:
        model: a causal language model, or one with an adapter, on its device.
        tokenizer: its tokenizer.
        encoded: token ids of the prompts, in their order.
        options: how to draw.
        batch_size: prompts per batch; memory and speed only.
        about: what `describe` says of the model: its fingerprint, its dtype, its chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        encoded: Sequence[Sequence[int]],
        options: SamplingOptions,
        *,
        batch_size: int = 8,
        about: dict[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
        self._model = model
        self._tokenizer = tokenizer
        self._encoded = encoded
        self._options = options
        self._batch_size = batch_size
        self._about = about or {}
        self._ends = _end_tokens(model, tokenizer, options)
        pad = cast("int | None", tokenizer.pad_token_id)
        self._pad = self._ends[0] if pad is None else pad

    def describe(self) -> dict[str, Any]:
        """What the answers depend on; the size of batches is no part of it."""
        return {"engine": "transformers", "end_tokens": list(self._ends), **self._about}

    def run(self, prompts: Sequence[Prompt], done: Collection[int], keep: Keep, *, progress: bool) -> None:
        """Batch by batch, the longest prompts first, each batch kept when it is complete.

        Batches are cut from all prompts, so that a run that was killed goes on with the same ones.
        """
        order = sorted(range(len(prompts)), key=lambda index: (-len(self._encoded[index]), index))
        size = self._batch_size
        cut = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [batch for whole in cut if (batch := [index for index in whole if index not in done])]
        description = "Generating" if progress else None
        with _own_settings(self._model, self._config()):
            for batch in follow(batches, description, total=sum(map(len, batches)), work=len):
                seeds = [row_seed(self._options.seed, prompts[index].instruction) for index in batch]
                answers = self._answers([self._encoded[index] for index in batch], seeds)
                keep(dict(zip(batch, answers, strict=True)))

    def _answers(self, rows: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Generation]:
        width = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        device = self._model.device
        drawn: dict[str, Any] = {}
        if self._options.temperature > 0:
            from transformers import LogitsProcessorList

            drawn["logits_processor"] = LogitsProcessorList([RowDraws(seeds, self._options)])
        if self._options.stop:
            from transformers import StoppingCriteriaList

            drawn["stopping_criteria"] = StoppingCriteriaList(
                [StopStrings(self._tokenizer, self._options.stop, width)]  # pyright: ignore[reportArgumentType]
            )
        try:
            with torch.no_grad():
                tokens = self._model.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    generation_config=self._config(),
                    **drawn,
                )
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"out of GPU memory with {len(rows)} prompts of up to {width} tokens in a batch. Answers so far are "
                "kept: start again with a smaller --batch-size; the answers do not depend on it."
            ) from error
        return [self._decoded(row) for row in tokens[:, width:].tolist()]

    def _decoded(self, tokens: list[int]) -> Generation:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        kept = tokens if end is None else tokens[:end]
        whole = cast(str, self._tokenizer.decode(kept, skip_special_tokens=True))
        text, stopped = cut_at_stop(whole, self._options.stop)
        if stopped and end is None:
            while tokens[-1] == self._pad:  # what follows a stop string while other rows of the batch go on
                tokens = tokens[:-1]
        used = len(tokens) if end is None else end + 1
        return Generation(text, "length" if end is None and not stopped else "stop", used)

    def _config(self) -> Any:
        """All that steers `generate`; what the model's own file says about sampling is no part of it."""
        from transformers import GenerationConfig

        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._options.max_new_tokens,
            eos_token_id=list(self._ends),
            pad_token_id=self._pad,
            use_cache=True,
        )


def _end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, options: SamplingOptions) -> tuple[int, ...]:
    """End-of-text tokens: the tokenizer's, those of the model's generation settings, and the user's."""
    own: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed: list[int] = list(own) if isinstance(own, (list, tuple)) else [] if own is None else [own]
    found = [tokenizer.eos_token_id, *listed]
    vocabulary = tokenizer.get_vocab()
    for token in options.stop_tokens:
        if token not in vocabulary:
            raise ConfigError(
                f"stop_tokens: the tokenizer has no token {token!r}; use --stop for a string of several tokens."
            )
        found.append(vocabulary[token])
    return tuple(dict.fromkeys(cast(int, token) for token in found if token is not None))


@contextmanager
def _own_settings(model: Any, config: Any) -> Generator[None]:
    """The model without its generation settings, from which `generate` would fill what we leave at its default."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    holders = [model] if inner is model else [model, inner]
    before = [getattr(holder, "generation_config", None) for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield
    finally:
        for holder, settings in zip(holders, before, strict=True):
            holder.generation_config = settings
