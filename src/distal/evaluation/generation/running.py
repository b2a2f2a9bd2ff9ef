"""A run of answers that may be killed at any moment: what is there is kept, and the end is always the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distal.evaluation.files import write_atomically
from distal.evaluation.generation.engines import Engine
from distal.evaluation.generation.options import Generation, SamplingOptions
from distal.evaluation.generation.outputs import ModelOutput, json_bytes, settings_path, write_outputs
from distal.evaluation.generation.prompts import Prompt, PromptSet
from distal.evaluation.journal import Journal, content_key

__all__ = ["SCHEMA", "GenerationRun", "generate_outputs"]

SCHEMA = "distal.generation/1"
"""Name and version of the settings file; the number rises when a key changes its meaning or goes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRun:
    """What a run has written.

    Attributes:
        outputs: the file of answers.
        settings: the file that says how they were drawn.
        n: answers.
        empty: how many of them hold nothing but blanks.
        cut: how many were cut off at the greatest length.
        reused: how many were there already when the run began.
    """

    outputs: Path
    settings: Path
    n: int
    empty: int
    cut: int
    reused: int


def generate_outputs(
    prompts: PromptSet,
    engine: Engine,
    options: SamplingOptions,
    path: str | Path,
    *,
    generator: str,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> GenerationRun:
    """Answer all prompts and write AlpacaEval's file, with a file of settings beside it.

    While it goes on, answers are kept in `NAME.partial.jsonl` beside the file, under keys that say what each depends
    on: the engine's description, the options and the prompt. A run that is started again takes what fits from there.

    Args:
        prompts: what to answer.
        engine: who answers.
        options: how answers are drawn.
        path: the file to write; an existing one is replaced, when all answers are there.
        generator: name of the model in the file.
        about: further entries of the settings file, such as versions.
        progress: whether to show a progress bar.
        tell: called with remarks for people.

    Raises:
        DistalError: whatever ends the run; the answers so far are kept.
    """
    target = Path(path)
    described = engine.describe()
    keys = [_key(described, options, prompt) for prompt in prompts.prompts]
    journal = Journal(target.with_name(f"{target.name}.partial.jsonl"))
    done = {index for index, key in enumerate(keys) if journal.get(key) is not None}
    if done:
        tell(f"{len(done):,} of {len(keys):,} answers are there already, from a run that did not end")
    elif len(journal):
        tell(f"{journal.path} holds answers drawn otherwise, which are not used")

    def keep(answers: Mapping[int, Generation]) -> None:
        journal.put({keys[index]: asdict(answer) for index, answer in answers.items()})

    if len(done) < len(keys):
        engine.run(prompts.prompts, done, keep, progress=progress)
    answers = [Generation(**(journal.get(key) or {})) for key in keys]
    rows = [
        ModelOutput(prompt.instruction, answer.text, generator, prompt.dataset)
        for prompt, answer in zip(prompts.prompts, answers, strict=True)
    ]
    counts = _counts(answers)
    record = {
        "schema": SCHEMA,
        "generator": generator,
        "n": len(rows),
        **counts,
        "prompts": prompts.counts(),
        "engine": described,
        "settings": options.to_dict(),
        **(about or {}),
    }
    # The settings come first: where there is a file of answers, it is complete and explained.
    write_atomically(settings_path(target), json_bytes(record))
    write_outputs(target, rows)
    journal.remove()
    return GenerationRun(
        outputs=target,
        settings=settings_path(target),
        n=len(rows),
        empty=counts["empty"],
        cut=counts["cut"],
        reused=len(done),
    )


def _key(described: Mapping[str, Any], options: SamplingOptions, prompt: Prompt) -> str:
    row = prompt.row
    return content_key(
        version=1,
        engine=dict(described),
        options=options.to_dict(),
        prompt=row.prompt,
        tools=None if row.tools is None else list(row.tools),
        template_options=dict(row.template_options),
    )


def _counts(answers: list[Generation]) -> dict[str, Any]:
    ends = Counter(answer.finish for answer in answers)
    tokens = [answer.tokens for answer in answers if answer.tokens is not None]
    return {
        "empty": sum(not answer.text.strip() for answer in answers),
        "cut": ends["length"],
        "finish": dict(sorted(ends.items())),
        "tokens": sum(tokens) if len(tokens) == len(answers) else None,
    }
