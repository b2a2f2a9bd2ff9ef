"""Generated texts and what a judge said of them, put side by side by their instruction."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from distal.report.page.reading import FolderReader, finite, mapping, rows_named, text

__all__ = [
    "GENERATIONS",
    "Generation",
    "Outcome",
    "RunSamples",
    "SampleTable",
    "during_training",
    "read_samples",
    "side_by_side",
]

Outcome = Literal["win", "loss", "tie"]

_BEFORE = re.compile(r"(before|baseline|base|reference)([^a-z].*)?", re.IGNORECASE)
_AFTER = re.compile(r"(after|model|aligned|policy)([^a-z].*)?", re.IGNORECASE)

GENERATIONS = "evaluation/generations"
"""Folder of the generations within a run."""

Key = tuple[str, str]
"""What a generation answers: instruction and source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One text that a model wrote.

    Attributes:
        instruction: what was asked.
        output: what was written, possibly empty; None where the file holds no text.
        source: data set that the instruction is from.
    """

    instruction: str
    output: str | None
    source: str


@dataclass(frozen=True, kw_only=True)
class RunSamples:
    """The texts of one run: before and after alignment, either of which may be missing.

    Attributes:
        files: that they come from.
        outcomes: of the judged ones, in the order of their occurrence under the same instruction.
    """

    files: tuple[str, ...]
    before: tuple[Generation, ...]
    after: tuple[Generation, ...]
    outcomes: Mapping[str, tuple[Outcome, ...]]


@dataclass(frozen=True, kw_only=True)
class SampleTable:
    """Texts side by side; a row answers one instruction.

    Attributes:
        columns: headings of the texts.
        runs: names of the runs that have outcomes.
        instructions: (rows,).
        sources: (rows,).
        texts: (rows, columns); None where a model wrote nothing for the instruction.
        outcomes: (rows, runs); None where nothing was judged.
        files: that the texts come from.
    """

    columns: tuple[str, ...]
    runs: tuple[str, ...]
    instructions: tuple[str, ...]
    sources: tuple[str, ...]
    texts: tuple[tuple[str | None, ...], ...]
    outcomes: tuple[tuple[Outcome | None, ...], ...]
    files: tuple[str, ...]


def read_samples(reader: FolderReader) -> RunSamples | None:
    """The generations of a run; None where there are none."""
    found = reader.files(f"{GENERATIONS}/*.json", "generations/*.json")
    paths = [path for path in found if not path.name.endswith(".settings.json")]  # how the others were drawn
    before, after = _named(paths, _BEFORE), _named(paths, _AFTER)
    if before is None and after is None and paths:
        before, after = (paths[0], paths[1]) if len(paths) > 1 else (None, paths[0])
    chosen = [path for path in (before, after) if path is not None]
    texts = {path: _generations(reader, path) for path in chosen}
    if not any(texts.values()):
        return None
    return RunSamples(
        files=tuple(reader.name(path) for path in chosen),
        before=texts[before] if before is not None else (),
        after=texts[after] if after is not None else (),
        outcomes=_outcomes(reader, texts[after] if after is not None else ()),
    )


def _named(paths: Iterable[Path], pattern: re.Pattern[str]) -> Path | None:
    return next((path for path in paths if pattern.fullmatch(path.stem)), None)


def _generations(reader: FolderReader, path: Path) -> tuple[Generation, ...]:
    content = reader.json(path)
    if content is None:
        return ()
    if not isinstance(content, list):
        reader.complain(path, "is no list of generations")
        return ()
    found: list[Generation] = []
    broken: list[int] = []
    for number, item in enumerate(cast(list[object], content)):
        record = mapping(item)
        if "output" not in record:
            broken.append(number)
            continue
        output = record["output"]
        found.append(
            Generation(
                instruction=_as_text(record.get("instruction")),
                output=output if isinstance(output, str) else None,
                source=_as_text(record.get("dataset")),
            )
        )
    if broken:
        reader.complain(path, f"{rows_named('row', broken)}: no output, left out")
    return tuple(found)


def _as_text(value: object) -> str:
    """A text as it is; conversations and the like as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _outcomes(reader: FolderReader, after: Sequence[Generation]) -> Mapping[str, tuple[Outcome, ...]]:
    """What the judge said of each instruction, the model's side; judgements of other texts are left out."""
    path = reader.first(
        "evaluation/judgements.jsonl", "judgements.jsonl", "evaluation/winrate/judgements.jsonl"
    )
    found: defaultdict[str, list[Outcome]] = defaultdict(list)
    shown = {(one.instruction, text_id(one.output)) for one in after if one.output is not None}
    foreign = 0
    for record in [] if path is None else reader.json_lines(path):
        instruction, outcome = text(record.get("prompt", record.get("instruction"))), _outcome(record)
        if instruction is None or outcome is None:
            continue
        judged = record.get("model_output")
        if judged is None or (instruction, judged) in shown:
            found[instruction].append(outcome)
        else:
            foreign += 1
    if path is not None and foreign:
        reader.complain(path, f"judges {foreign:,} texts that are not those shown here; left out")
    return {instruction: tuple(outcomes) for instruction, outcomes in found.items()}


def text_id(text: str) -> str:
    """Identity of a text, as `distal evaluate winrate` writes it: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _outcome(record: Mapping[str, Any]) -> Outcome | None:
    """A judgement in words, or as AlpacaEval's preference: 1 for the baseline, 2 for the model, between for a tie."""
    for key in ("outcome", "verdict", "result", "winner"):
        words = {
            "win": "win",
            "model": "win",
            "loss": "loss",
            "lose": "loss",
            "baseline": "loss",
            "tie": "tie",
        }
        if (said := words.get(str(record.get(key)).lower())) is not None:
            return cast(Outcome, said)
    preference = finite(record.get("preference"))
    if preference is None:
        return None
    return "tie" if preference in (0.0, 1.5) else "win" if preference > 1.5 else "loss"


def side_by_side(samples: Sequence[tuple[str, RunSamples]]) -> SampleTable | None:
    """Texts of one or several runs in one table.

    Rows are the instructions of the first run that has them, in its order, then those that only later ones have. What
    the runs were compared with stands in one column where it is the same for all of them.

    Args:
        samples: name and texts of each run.
    """
    if not samples:
        return None
    columns = _columns(samples)
    rows: dict[tuple[Key, int], list[str | None]] = {}
    for place, (_, generations) in enumerate(columns):
        for key, generation in _numbered(generations):
            rows.setdefault(key, [None] * len(columns))[place] = generation.output
    judged = [(name, run) for name, run in samples if run.outcomes]
    files = dict.fromkeys(f"{name}/{file}" for name, run in samples for file in run.files)
    return SampleTable(
        columns=tuple(heading for heading, _ in columns),
        runs=tuple(name for name, _ in judged),
        instructions=tuple(instruction for (instruction, _), _ in rows),
        sources=tuple(source for (_, source), _ in rows),
        texts=tuple(tuple(texts) for texts in rows.values()),
        outcomes=_matched_outcomes(rows, [run.outcomes for _, run in judged]),
        files=tuple(files),
    )


def _columns(samples: Sequence[tuple[str, RunSamples]]) -> list[tuple[str, tuple[Generation, ...]]]:
    """Headings and texts of the columns."""
    if len(samples) == 1:
        run = samples[0][1]
        found = [("before alignment", run.before), ("after alignment", run.after)]
    else:
        befores = dict.fromkeys(run.before for _, run in samples if run.before)
        if len(befores) == 1:
            found = [("before alignment", next(iter(befores)))]
        else:
            found = [(f"{name}: before", run.before) for name, run in samples]
        found += [(f"{name}: after", run.after) for name, run in samples]
    return [(heading, texts) for heading, texts in found if texts]


def _numbered(generations: Iterable[Generation]) -> Iterable[tuple[tuple[Key, int], Generation]]:
    """Each generation with what it answers and how often that occurred before."""
    seen: defaultdict[Key, int] = defaultdict(int)
    for generation in generations:
        key = (generation.instruction, generation.source)
        yield (key, seen[key]), generation
        seen[key] += 1


def _matched_outcomes(
    rows: Iterable[tuple[Key, int]], outcomes: Sequence[Mapping[str, tuple[Outcome, ...]]]
) -> tuple[tuple[Outcome | None, ...], ...]:
    """Outcomes of each row; of an instruction that occurs several times, in order."""
    left = [{instruction: deque(said) for instruction, said in run.items()} for run in outcomes]
    return tuple(tuple(run[key[0]].popleft() if run.get(key[0]) else None for run in left) for key, _ in rows)


def during_training(reader: FolderReader) -> tuple[Mapping[str, Any], ...]:
    """What the model wrote in the course of training, one record per text."""
    path = reader.first("samples.jsonl", "evaluation/samples.jsonl")
    return () if path is None else tuple(reader.json_lines(path))
