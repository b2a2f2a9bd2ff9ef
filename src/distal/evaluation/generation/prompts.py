"""Prompts to answer: from a column of prompts, or those of a preference data set, each once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distal.data import DataLike, ReadOptions, open_preferences
from distal.data.fields import extras, text
from distal.data.loading import open_rows
from distal.data.prompts import user_turn
from distal.data.reasons import DROPPED, RowProblem
from distal.data.schemas import Preference, Text
from distal.errors import ConfigError, DataError

__all__ = ["Prompt", "PromptSet", "instruction_of", "read_prompts"]

_COLUMNS = ("prompt", "instruction")
"""Columns that hold prompts, where the rows are no preferences and none is named."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        instruction: what AlpacaEval's format calls so: the prompt as one string.
        row: the prompt as a string or as messages, with tools and options of the chat template.
        dataset: where it comes from.
        source_row: 0-based row of the source.
    """

    instruction: str
    row: Preference
    dataset: str
    source_row: int


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of a source, each once.

    Attributes:
        prompts: in the order of the source.
        name: of the source, for messages.
        given: prompts in the source, repeated ones included.
        dropped: reason -> number of rows without a usable prompt.
        examples: reason -> the first such row, and what is wrong with it.
    """

    prompts: tuple[Prompt, ...]
    name: str
    given: int
    dropped: Mapping[str, int]
    examples: Mapping[str, str]

    def summary(self) -> list[str]:
        """What became of the rows, in lines for people."""
        lines = [f"{self.name}: {len(self.prompts):,} different prompts in {self.given:,}"]
        lines += [
            f"  {count:,} rows left out: {DROPPED[reason]}, such as {self.examples[reason]}"
            for reason, count in self.dropped.items()
        ]
        return lines

    def counts(self) -> dict[str, Any]:
        """The same for the record of a result."""
        return {
            "source": self.name,
            "given": self.given,
            "different": len(self.prompts),
            "dropped": dict(self.dropped),
        }


def read_prompts(
    data: DataLike,
    *,
    column: str | None = None,
    split: str | None = None,
    reading: ReadOptions | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> PromptSet:
    """The prompts of a file, a hub data set or a list of rows; repeated ones count once.

    Rows of preferences give their prompts as `distal.data` reads them. Other rows give the column `prompt`, or
    `instruction`, which is that of AlpacaEval's files; strings or messages.

    Args:
        data: whatever `distal.data.open_preferences` takes.
        column: name of the column, which is then read as it is.
        split: which split, where there are several.
        reading: format, names of columns, and whether strings become messages.
        limit: most prompts to keep, the first ones.
        strict: whether a row without a usable prompt is an error rather than counted.

    Raises:
        DataError: nothing readable is there, or no prompt is in it.
        ConfigError: options that exclude each other.

    Examples:
        >>> found = read_prompts([{"prompt": "Hi"}, {"prompt": "Why?"}, {"prompt": "Hi"}])
        >>> [prompt.instruction for prompt in found.prompts], found.given
        (['Hi', 'Why?'], 3)
    """
    options = reading or ReadOptions()
    if column is not None and (options.format is not None or options.columns):
        raise ConfigError("prompt_column and format or map exclude each other: keep one.")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1; got {limit}.")
    name = Path(str(data)).name if isinstance(data, (str, Path)) else "prompts"
    unique: dict[str, Prompt] = {}
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    given = 0
    for number, made, dataset in _rows(data, column, split, options, name):
        if isinstance(made, RowProblem):
            if strict:
                raise DataError(f"{name}: row {number}: {made.detail}; {made.remedy}")
            dropped[made.reason] += 1
            examples.setdefault(made.reason, f"row {number}: {made.detail}")
            continue
        given += 1
        key = json.dumps([made.prompt, made.tools, dict(made.template_options)], sort_keys=True, default=str)
        if key not in unique and (limit is None or len(unique) < limit):
            unique[key] = Prompt(instruction_of(made.prompt), made, dataset, number)
    if not unique:
        why = f": {next(iter(examples.values()))}" if examples else ""
        hint = (
            ""
            if column is not None
            else ". A column that is to be read as it is can be named: --prompt-column"
        )
        raise DataError(f"{name} holds no usable prompt{why}{hint}")
    return PromptSet(tuple(unique.values()), name, given, dict(dropped), examples)


def instruction_of(prompt: Text) -> str:
    r"""A prompt as one string: the text of a single user turn, or a transcript of several turns.

    Examples:
        >>> instruction_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
        'system: Be brief.\n\nuser: Hi'
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _rows(
    data: DataLike, column: str | None, split: str | None, options: ReadOptions, name: str
) -> Iterator[tuple[int, Preference | RowProblem, str]]:
    """Row numbers with what they hold, and the data set they name."""
    raw = open_rows(data, split=split, name=name)
    stem = name.partition(".")[0]
    if column is None:
        first = next(iter(raw.read(())), None)
        found = set(raw.columns or first or ())
        column = next((name for name in _COLUMNS if name in found), None)
        forced = options.format is not None or bool(options.columns)
        if forced or column is None or not _is_outputs(found):
            try:
                source = open_preferences(data, options, split=split, name=name)
            except DataError as error:
                if forced or (column is None and not found):
                    raise
                if column is None:
                    raise DataError(
                        f"{raw.name}: no column {' or '.join(_COLUMNS)}, and no preferences; found "
                        f"{', '.join(sorted(map(str, found)))}. Name the column with --prompt-column."
                    ) from error
            else:
                yield from ((number, made, stem) for number, made in source)
                return
    for number, row in enumerate(raw.read((column, "dataset", "tools", "chat_template_kwargs"))):
        dataset = row.get("dataset")
        yield (
            number,
            _prompt_of(row, column, chat=options.chat),
            dataset if isinstance(dataset, str) else stem,
        )


def _is_outputs(columns: set[Any]) -> bool:
    """Whether rows are answers of a model in AlpacaEval's format."""
    return {"instruction", "output"} <= columns and not columns & {"chosen", "rejected", "input"}


def _prompt_of(row: Mapping[str, Any], column: str, *, chat: bool) -> Preference | RowProblem:
    try:
        prompt = text(row, column)
        if not prompt or (isinstance(prompt, str) and not prompt.strip()):
            raise RowProblem("bad_type", f"column {column} is empty", "give a prompt")
        if chat and isinstance(prompt, str):
            prompt = user_turn(prompt)
        return Preference(prompt, (), (), **extras(row))
    except RowProblem as problem:
        return problem
