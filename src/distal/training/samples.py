"""Answers of the policy to a few fixed prompts at every evaluation, kept beside the run as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from distal.errors import ConfigError
from distal.scoring import autocast, unwrap
from distal.scoring.compilation import uncompiled
from distal.training.health.log import HealthLog
from distal.types import TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distal.training.config import AlignmentConfig

__all__ = [
    "SAMPLES_FILE",
    "Generate",
    "SampleCallback",
    "SampleSettings",
    "check_sampling",
    "generate_answers",
]

SAMPLES_FILE = "samples.jsonl"
"""Name of the file in the run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """How answers are written.

    Attributes:
        new_tokens: longest answer, tokens.
        temperature: of sampling; 0 for the likeliest token each time.
        seed: of sampling; every evaluation starts from it, and the run's own random numbers are left alone.
        autocast_dtype: mixed precision, as in training.
    """

    new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    autocast_dtype: torch.dtype | None = None


Generate: TypeAlias = Callable[[nn.Module, Sequence[Sequence[int]], SampleSettings], list[list[int]]]
"""From a model and prompts, as token ids, to answers: what `SampleCallback` can be given instead of its own."""


def generate_answers(
    model: nn.Module, prompts: Sequence[Sequence[int]], settings: SampleSettings
) -> list[list[int]]:
    """Answers to prompts, one after the other, by the model's own `generate`.

    Args:
        model: a causal language model, wrapped or not; in evaluation mode.
        prompts: token ids.
        settings: length, temperature.

    Returns:
        The new tokens of each, the end-of-text token included where it was reached.
    """
    from transformers import GenerationConfig

    inner: Any = unwrap(model)
    ends = inner.generation_config.eos_token_id
    # A configuration of its own: the model's may ask for other sampling, or stop elsewhere.
    sampled: dict[str, Any] = {"do_sample": True, "temperature": settings.temperature, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=settings.new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0] if isinstance(ends, list) else ends,
        **(sampled if settings.temperature > 0 else {"do_sample": False}),
    )
    device = next(model.parameters()).device
    answers: list[list[int]] = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=device)
        answer = inner.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        answers.append(answer[0, ids.shape[1] :].tolist())
    return answers


def check_sampling(args: AlignmentConfig) -> None:
    """Refuse options about samples that would have no effect, or that are out of range.

    Raises:
        ConfigError: naming the option.
    """
    if not args.sample_prompts:
        for name in ("sample_new_tokens", "sample_temperature"):
            if getattr(args, name) is not None:
                raise ConfigError(f"{name} has no effect without sample_prompts; set sample_prompts: 4, say")
        return
    if args.eval_strategy == IntervalStrategy.NO and not args.eval_on_start:
        raise ConfigError(
            "sample_prompts has no effect without evaluations on the way: set eval_strategy: steps and eval_steps"
        )
    heat: Any = args.sample_temperature
    if heat is not None and (
        isinstance(heat, bool) or not isinstance(heat, int | float) or not 0 <= heat < 100
    ):
        raise ConfigError(f"sample_temperature: expected a number of at least 0, got {heat!r}")


class SampleCallback(TrainerCallback):
    """Writes what the policy answers at every evaluation into `samples.jsonl`.

    All ranks generate, so that sharded weights are gathered in step; the first one writes. A resumed run goes on with
    the file where its checkpoint was made.

    Args:
        rows: whose prompts are answered.
        tokenizer: to write prompts and answers as text.
        settings: length, temperature, seed.
        generate: what writes the answers.
    """

    def __init__(
        self,
        rows: Sequence[TokenRow],
        tokenizer: PreTrainedTokenizerBase,
        settings: SampleSettings,
        generate: Generate = generate_answers,
    ) -> None:
        self.settings, self.generate = settings, generate
        self._rows = rows
        self._prompts = [list(row.input_ids[: row.prompt_length]) for row in rows]
        self._tokenizer: Any = tokenizer
        self._log: HealthLog | None = None
        self._begun, self._answered = False, -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the file; a resumed run keeps what it says of the steps before."""
        self._begun = True
        # The same on every rank, or some would generate alone.
        self._answered = state.global_step or -1
        if state.is_world_process_zero:
            self._log = HealthLog(Path(str(args.output_dir)) / SAMPLES_FILE)
            self._log.begin(state.global_step or None)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Generate and write, once per step however many sets are evaluated."""
        if not self._begun or state.global_step == self._answered:
            return
        self._answered = state.global_step
        model: nn.Module = kwargs["model"]
        with _sampling(model, self.settings):
            answers = self.generate(model, self._prompts, self.settings)
        if self._log is None:
            return
        for row, prompt, answer in zip(self._rows, self._prompts, answers, strict=True):
            record = {
                "step": state.global_step,
                "source_row": row.source_row,
                "prompt": self._tokenizer.decode(prompt),
                "answer": self._tokenizer.decode(answer, skip_special_tokens=True),
                "new_tokens": len(answer),
                "temperature": self.settings.temperature,
                "seed": self.settings.seed,
            }
            self._log.append(record)


@contextmanager
def _sampling(model: nn.Module, settings: SampleSettings) -> Generator[None]:
    """Evaluation mode, no gradients, blocks as they are, and random numbers of its own."""
    device, training = next(model.parameters()).device, model.training
    devices = [device] if device.type == "cuda" else []
    model.eval()
    try:
        with (
            uncompiled(model),
            torch.random.fork_rng(devices),
            torch.no_grad(),
            autocast(device, settings.autocast_dtype),
        ):
            torch.manual_seed(settings.seed)
            yield
    finally:
        model.train(training)
