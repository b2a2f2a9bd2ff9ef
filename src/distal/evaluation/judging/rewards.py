"""Judges that grade each answer on its own: a reward model, a function of the user's, two simple ones."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distal.data.prompts import user_turn
from distal.errors import ConfigError, ModelError, NonFiniteError
from distal.evaluation.judging.questions import Judgement, KeepJudgement, Question
from distal.progress import follow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FunctionJudge", "RewardModelJudge", "find_reward"]

Reward = Callable[[str, str], float]
"""From prompt and answer to a grade; higher is better."""


class FunctionJudge:
    """Prefers the answer with the higher grade; equal grades are a tie.

    Args:
        name: `length`, `regex:PATTERN` or `module:function`, see `find_reward`.
    """

    sees_order = False
    keeps_order = False
    stored = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._reward = find_reward(name)

    def describe(self) -> dict[str, Any]:
        """The name of the function."""
        return {"judge": "function", "function": self._name}

    def run(self, questions: Sequence[Question], keep: KeepJudgement, *, progress: bool) -> None:
        """One pair after the other."""
        description = "Judging" if progress else None
        for question in follow(
            questions, description, total=len(questions), work=lambda _: 1.0, patience=2.0
        ):
            keep(
                question, judged(*(self._grade(question, text) for text in (question.first, question.second)))
            )

    def _grade(self, question: Question, answer: str) -> float:
        try:
            grade = float(self._reward(question.prompt, answer))
        except Exception as error:  # whatever the user's function raises
            raise ConfigError(
                f"{self._name} failed on pair {question.pair} (counted from 0): {type(error).__name__}: {error}"
            ) from error
        if math.isnan(grade):
            raise NonFiniteError(f"{self._name} gave NaN on pair {question.pair} (counted from 0).")
        return grade


class RewardModelJudge:
    """Prefers the answer that a sequence-classification model with one output grades higher.

    Args:
        model: from `distal.scoring.loading.load_reward_model`, on its device.
        tokenizer: its tokenizer; with a chat template prompt and answer become a conversation, without one they are
            read as a pair of texts.
        name: of the model, for messages and records.
        fingerprint: of its weights.
        batch_size: answers per forward pass.
        max_length: longest text, tokens; a longer one is refused, as its end would go unread.
    """

    sees_order = False
    keeps_order = False
    stored = True

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        fingerprint: str,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
        self._model = model
        self._tokenizer: Any = tokenizer
        self._name = name
        self._fingerprint = fingerprint
        # Without a padding token such models take the last token of a row, which must then be a row's own.
        self._batch_size = 1 if model.config.pad_token_id is None else batch_size
        limit = getattr(model.config, "max_position_embeddings", None)
        self._longest = max_length or (limit if isinstance(limit, int) else None)

    def describe(self) -> dict[str, Any]:
        """Name, weights and dtype of the model."""
        return {
            "judge": "reward-model",
            "model": self._name,
            "fingerprint": self._fingerprint,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "chat_template": self._tokenizer.chat_template,
        }

    def run(self, questions: Sequence[Question], keep: KeepJudgement, *, progress: bool) -> None:
        """Batches of texts of like length; a pair is kept when both of its answers are graded."""
        texts = list(dict.fromkeys((q.prompt, answer) for q in questions for answer in (q.first, q.second)))
        encoded = {text: self._encode(*text) for text in texts}
        # The longest prompts first, both answers of a pair near each other, so that pairs are kept early.
        order = sorted(
            questions,
            key=lambda q: -max(len(encoded[q.prompt, q.first]), len(encoded[q.prompt, q.second])),
        )
        pairs_per_batch = max(1, self._batch_size // 2)
        batches = [order[at : at + pairs_per_batch] for at in range(0, len(order), pairs_per_batch)]
        grades: dict[tuple[str, str], float] = {}
        for batch in follow(batches, "Judging" if progress else None, total=sum(map(len, batches)), work=len):
            wanted = list(
                dict.fromkeys(
                    text
                    for q in batch
                    for text in ((q.prompt, q.first), (q.prompt, q.second))
                    if text not in grades
                )
            )
            for at in range(0, len(wanted), self._batch_size):
                part = wanted[at : at + self._batch_size]
                grades |= dict(zip(part, self._grades([encoded[text] for text in part]), strict=True))
            for q in batch:
                keep(q, judged(grades[q.prompt, q.first], grades[q.prompt, q.second]))

    def _encode(self, prompt: str, answer: str) -> list[int]:
        tokenizer = self._tokenizer
        if tokenizer.chat_template:
            turns = [*user_turn(prompt), {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(prompt, answer)["input_ids"]
        if not ids:
            ids = [tokenizer.eos_token_id]
        if self._longest is not None and len(ids) > self._longest:
            raise ModelError(
                f"prompt and answer have {len(ids)} tokens, more than the {self._longest} that the reward model "
                f"{self._name} reads; the prompt begins {prompt[:60]!r}. Use another judge, or shorter answers."
            )
        return ids

    def _grades(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        width = max(map(len, rows))
        pad = self._model.config.pad_token_id or 0
        ids = torch.tensor([list(row) + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        device = self._model.device
        with torch.no_grad():
            logits = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        grades: list[float] = logits[:, 0].float().tolist()
        if not all(map(math.isfinite, grades)):
            raise NonFiniteError(
                f"the reward model {self._name} gave NaN or infinity; load it with --dtype float32."
            )
        return grades


def judged(first: float, second: float) -> Judgement:
    """The judgement that two grades amount to."""
    preference = 1.0 if first > second else 0.0 if first < second else 0.5
    return Judgement(preference, f"{first:.9g} {second:.9g}")


def find_reward(name: str) -> Reward:
    """A function that grades answers, by name.

    Args:
        name: `length` (characters of the answer), `regex:PATTERN` (1 where the pattern is found in the answer, 0
            where not), or `module:function` of a module that can be imported from here.

    Raises:
        ConfigError: there is no such function.

    Examples:
        >>> find_reward("length")("prompt", "four"), find_reward("regex:^[0-9]+$")("prompt", "12")
        (4.0, 1.0)
    """
    kind, colon, rest = name.partition(":")
    if name == "length":
        return lambda prompt, answer: float(len(answer))
    if kind == "regex" and colon:
        try:
            pattern = re.compile(rest)
        except re.error as error:
            raise ConfigError(f"function: {rest!r} is no regular expression: {error}") from error
        return lambda prompt, answer: float(pattern.search(answer) is not None)
    if not (colon and kind and rest):
        raise ConfigError(f"function must be length, regex:PATTERN or module:function; got {name!r}.")
    found: Any = _import(kind, name)
    for part in rest.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"function: the module {kind} has no function {rest}.")
    return cast(Reward, found)


def _import(module: str, name: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # the module is the user's: anything may go wrong in it
        raise ConfigError(
            f"function: cannot import {module} for {name}: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
