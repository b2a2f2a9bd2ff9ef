"""A check of preference data before anything is spent on it: fates of rows, labels, lengths, leakage, samples."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distal.data.conversion import Counted, followed
from distal.data.findings import Finding, as_dicts, findings_of, verdict_of
from distal.data.keys import prompt_key
from distal.data.lengths import LengthComparison, compare_lengths
from distal.data.overlap import Overlap, PromptIndex
from distal.data.preferences import TokenizedPreferences
from distal.data.reading import PreferenceSource
from distal.data.repeats import Repeats
from distal.data.report import DataReport
from distal.data.schemas import Preference, Text
from distal.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CheckSettings", "DataCheck", "Sample", "check_data", "samples_of"]

_SHOWN_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as the model would read it.

    Attributes:
        source_row: 0-based row of the source.
        desirable: chosen or liked.
        prompt: text that is read and not scored.
        completion: text behind it.
        tokens: number of tokens that are read only, and that are scored; None where no tokenizer was given.
        boundary: the last tokens of the prompt and the first of the completion.
        pieces: the completion in pieces, each with whether it is scored.
    """

    source_row: int
    desirable: bool
    prompt: str
    completion: str
    tokens: tuple[int, int] | None = None
    boundary: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    pieces: tuple[tuple[str, bool], ...] = ()

    def __post_init__(self) -> None:
        if not self.pieces:
            object.__setattr__(self, "pieces", ((self.completion, True),))

    def to_dict(self) -> dict[str, Any]:
        """The sample fit for JSON."""
        return {
            "source_row": self.source_row,
            "desirable": self.desirable,
            "prompt": self.prompt,
            "completion": self.completion,
            "read_tokens": self.tokens and self.tokens[0],
            "scored_tokens": self.tokens and self.tokens[1],
            "last_prompt_tokens": list(self.boundary[0]),
            "first_completion_tokens": list(self.boundary[1]),
            "pieces": [{"text": text, "scored": scored} for text, scored in self.pieces],
        }


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What a data set is, and what is wrong with it.

    Attributes:
        format: name of the format.
        columns: the columns that were found.
        report: rows by fate.
        n_prompts: different prompts, but for case and white space.
        lengths: liked beside disliked completions; None where one of the two is missing.
        overlaps: prompts shared with held-out data.
        samples: a few completions as they are read.
        findings: what to know, worst first.
    """

    format: str
    columns: tuple[str, ...]
    report: DataReport
    n_prompts: int
    lengths: LengthComparison | None
    overlaps: tuple[Overlap, ...]
    samples: tuple[Sample, ...]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """usable, usable_with_warnings or not_usable."""
        return verdict_of(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The check as plain dictionaries, lists, strings and numbers, fit for JSON."""
        return {
            "schema": "distal.data_check/1",
            "verdict": self.verdict,
            "format": self.format,
            "columns": list(self.columns),
            "report": self.report.to_dict(),
            "prompts": self.n_prompts,
            "lengths": None if self.lengths is None else self.lengths.to_dict(),
            "overlaps": [overlap.to_dict() for overlap in self.overlaps],
            "samples": [sample.to_dict() for sample in self.samples],
            "findings": as_dicts(self.findings),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSettings:
    """How much a check looks at.

    Attributes:
        samples: completions that are shown; pairs count as two.
        held_out: further data whose prompts should not occur in the one that is checked.
        progress: whether a progress bar is shown where reading takes longer.
    """

    samples: int = 4
    held_out: tuple[PreferenceSource, ...] = field(default_factory=tuple)
    progress: bool = False


def check_data(
    source: PreferenceSource,
    settings: CheckSettings | None = None,
    *,
    tokenized: TokenizedPreferences | DataError | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> DataCheck:
    """Check preference data.

    Args:
        source: opened data; read once, whatever its size.
        settings: how much to look at.
        tokenized: the same data as `prepare_dataset` made it, or the error that it raised; None for a check of the
            texts alone, whose lengths are in characters.
        tokenizer: that of `tokenized`, for its samples.

    Examples:
        >>> from distal.data import open_preferences
        >>> rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
        >>> check_data(open_preferences(rows)).verdict
        'usable_with_warnings'
    """
    settings = settings or CheckSettings()
    seen = _Seen(source, settings)
    report, lengths = seen.report, seen.lengths
    samples, findings = seen.samples, list[Finding]()
    if isinstance(tokenized, DataError):
        findings.append(Finding("error", "tokenization", str(tokenized), "see the message"))
    elif tokenized is not None and tokenizer is not None:
        report = tokenized.report
        lengths = _token_lengths(tokenized)
        samples = samples_of(tokenized, tokenizer, settings.samples)
        findings += _template_findings(seen.has_strings, tokenizer)
    findings += findings_of(report, lengths, seen.overlaps)
    median = source.median()
    if median is not None:
        report = replace(report, notes=(*report.notes, f"the median of the grades is {median:g}"))
    order = ("error", "warning", "note")
    return DataCheck(
        format=source.form.name,
        columns=source.columns,
        report=report,
        n_prompts=seen.n_prompts,
        lengths=lengths,
        overlaps=tuple(seen.overlaps),
        samples=tuple(samples),
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.level))),
    )


class _Seen:
    """One pass over the preferences: what can be told without a tokenizer."""

    def __init__(self, source: PreferenceSource, settings: CheckSettings) -> None:
        told = f"checking {Path(source.name).name}" if settings.progress else None
        counted, repeats = Counted(source, "drop", told), Repeats()
        self._lengths: tuple[array[int], array[int]] = (array("q"), array("q"))
        self._prompts = array("Q")
        self.samples: list[Sample] = []
        self.has_strings = False
        indices = [_indexed(held_out, settings.progress) for held_out in settings.held_out]
        for number, row in self._rows(counted, repeats, settings):
            for index in indices:
                index.compare(number, row)
        self.overlaps = [index.overlap() for index in indices]
        repeats.note(counted.tally)
        self.report = counted.report()
        self.n_prompts = len(np.unique(np.array(self._prompts, dtype=np.uint64)))
        self.lengths = compare_lengths(*self._lengths, unit="characters", paired=source.kind == "paired")

    def _rows(
        self, counted: Counted, repeats: Repeats, settings: CheckSettings
    ) -> Iterable[tuple[int, Preference]]:
        for number, row in counted.numbered():
            prompt, sides = written(row.prompt), [written(side) for side in row.completions]
            self._prompts.append(prompt_key(row))
            self.has_strings |= isinstance(row.prompt, str)
            repeats.add([Repeats.keys(prompt, sides, row.desirable)], [number])
            for side, liked in zip(sides, row.desirable, strict=True):
                self._lengths[0 if liked else 1].append(len(side))
                if len(self.samples) < settings.samples:
                    self.samples.append(Sample(number, liked, prompt, side))
            yield number, row


def written(text: Text) -> str:
    """A text, or messages with their roles in front, for people to read."""
    if isinstance(text, str):
        return text
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in text)


def _indexed(source: PreferenceSource, progress: bool) -> PromptIndex:
    index = PromptIndex(source.name)
    if source.ungraded is not None:
        # Which answers count depends on a threshold, and that of the run may be another than these data's own.
        source = replace(source, items=source.ungraded)
    for number, made in followed(source, f"reading {Path(source.name).name}" if progress else None):
        if isinstance(made, Preference):
            index.add(number, made)
    return index


def _token_lengths(dataset: TokenizedPreferences) -> LengthComparison | None:
    lengths = dataset.scored_lengths
    if dataset.kind == "paired":
        return compare_lengths(lengths[0::2], lengths[1::2], unit="tokens", paired=True)
    liked = dataset.labels
    return compare_lengths(lengths[liked], lengths[~liked], unit="tokens", paired=False)


def samples_of(dataset: TokenizedPreferences, tokenizer: PreTrainedTokenizerBase, count: int) -> list[Sample]:
    """The first rows of a data set as text again, cut where the scores begin."""
    samples: list[Sample] = []
    for unit in dataset:
        for row in unit:
            if len(samples) >= count:
                return samples
            ids, cut = list(row.input_ids), row.prompt_length
            near = [*ids[max(0, cut - _SHOWN_TOKENS) : cut]], [*ids[cut : cut + _SHOWN_TOKENS]]
            names = [tuple(map(str, tokenizer.convert_ids_to_tokens(part))) for part in near]
            prompt, completion = (str(tokenizer.decode(part)) for part in (ids[:cut], ids[cut:]))
            tokens = (len(ids) - row.scored_length, row.scored_length)
            mask = row.completion_mask or [True] * (len(ids) - cut)
            runs = itertools.groupby(zip(ids[cut:], mask, strict=True), key=lambda pair: pair[1])
            pieces = tuple(
                (str(tokenizer.decode([token for token, _ in run])), bool(scored)) for scored, run in runs
            )
            boundary = (names[0], names[1])
            samples.append(
                Sample(row.source_row, row.desirable, prompt, completion, tokens, boundary, pieces)
            )
    return samples


def _template_findings(has_strings: bool, tokenizer: PreTrainedTokenizerBase) -> Iterable[Finding]:
    if has_strings and tokenizer.chat_template:
        yield Finding(
            "note",
            "template_unused",
            "rows are plain strings, which the tokenizer's chat template does not touch",
            "for a chat model, let it write them: --chat",
        )
