"""What a check of data has to say: findings with a remedy each, and the verdict that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distal.data.lengths import LengthComparison
from distal.data.overlap import Overlap
from distal.data.reasons import NOTED
from distal.data.report import DataReport

__all__ = [
    "FEW_UNITS",
    "MANY_CONTRADICTED",
    "MANY_DROPPED",
    "MINORITY",
    "Finding",
    "Level",
    "as_dicts",
    "findings_of",
    "verdict_of",
]

Level = Literal["error", "warning", "note"]
"""error: training would stop; warning: it would run, and mean something else than it seems; note: worth knowing."""

MANY_DROPPED = 0.1
"""Share of preferences left out that is worth a warning."""

MANY_CONTRADICTED = 0.05
"""Share of contradicted preferences that is worth a warning."""

MINORITY = 0.05
"""Share of the rarer label below which there is a warning."""

FEW_UNITS = 100
"""Fewer usable preferences than this are worth a warning."""

_WARNED = {
    "end_added": "use the template of the instruction-tuned model, whose turns end themselves",
    "truncated_completion": "raise max_length: a completion without its end teaches the model not to stop",
}
_NOTED = {
    "merged_boundary": "begin completions with a blank or a new line, or end prompts with one",
    "cut_at_eos": "nothing to do, unless the text behind the mark was meant",
    "user_turn_in_completion": "leave it out of the score (loss_on: assistant_turns or last_turn), or remove it",
    "other_turn_not_scored": "nothing to do: that is what loss_on asks for",
    "duplicate": "remove repeated rows, or mean them",
    "tied_grades": "leave rows with equal scores out, or make pairs of the grades with a margin",
    "truncated_prompt": "raise max_length to keep whole prompts",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about the data.

    Attributes:
        level: error, warning or note.
        code: what it is about, in one word for machines.
        message: what was found.
        remedy: what to do about it.
    """

    level: Level
    code: str
    message: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        """The finding as a dictionary of strings."""
        return asdict(self)


def findings_of(
    report: DataReport, lengths: LengthComparison | None, overlaps: Iterable[Overlap]
) -> list[Finding]:
    """What a report, the lengths and the overlaps of a data set have to say."""
    found = [*_usable(report), *_labels(report), *_rows(report)]
    if lengths is not None and lengths.is_biased:
        longer = "longer" if lengths.auc > 0.5 else "shorter"
        found.append(
            Finding(
                "warning",
                "length_bias",
                f"liked completions are {longer}: in {max(lengths.auc, 1 - lengths.auc):.0%} of all comparisons",
                "judge results against length, or balance it: a model may learn length and nothing else",
            )
        )
    for overlap in overlaps:
        found += _leakage(overlap)
    return found


def verdict_of(findings: Iterable[Finding]) -> str:
    """not_usable, usable_with_warnings or usable."""
    levels = {finding.level for finding in findings}
    return "not_usable" if "error" in levels else "usable_with_warnings" if "warning" in levels else "usable"


def _usable(report: DataReport) -> Iterable[Finding]:
    offered = report.n_kept + report.n_dropped
    if not report.n_kept:
        yield Finding("error", "empty", "no row can be used", "see for which reasons rows are left out")
    elif report.n_dropped / offered >= MANY_DROPPED:
        share = f"{report.n_dropped} of {offered} ({report.n_dropped / offered:.0%})"
        yield Finding(
            "warning", "dropped", f"{share} are left out", "see for which reasons, and mend or map columns"
        )
    if 0 < report.n_kept < FEW_UNITS:
        yield Finding(
            "warning",
            "few",
            f"only {report.n_kept} preferences can be used",
            "expect wide intervals, or add data",
        )


def _labels(report: DataReport) -> Iterable[Finding]:
    if report.n_desirable is None or not report.n_kept:
        return
    fewer = min(report.n_desirable, report.n_kept - report.n_desirable)
    counts = f"{report.n_desirable} liked, {report.n_kept - report.n_desirable} disliked"
    if fewer == 0:
        yield Finding(
            "error", "one_label", f"only one label occurs: {counts}", "add rows with the other label"
        )
    elif fewer / report.n_kept < MINORITY:
        yield Finding(
            "warning",
            "imbalance",
            f"labels are far apart: {counts}",
            "add rows of the rarer label, or weigh them",
        )


def _rows(report: DataReport) -> Iterable[Finding]:
    for remark, count in report.noted.items():
        if remark == "contradiction":
            share = count.count / max(1, report.n_kept)
            level: Level = "warning" if share >= MANY_CONTRADICTED else "note"
            remedy = "keep one judgement of each, or all of them if annotators disagree"
        elif remark in _WARNED:
            level, remedy = "warning", _WARNED[remark]
        else:
            level, remedy = "note", _NOTED.get(remark, "")
        yield Finding(level, remark, f"{count.count} rows: {NOTED[remark]}", remedy)


def _leakage(overlap: Overlap) -> Iterable[Finding]:
    for code, count, how in (
        ("leakage", overlap.n_exact, ""),
        ("near_leakage", overlap.n_near, "nearly "),
    ):
        if count:
            share = f"{count} of {overlap.n_prompts} prompts of {overlap.other}"
            yield Finding(
                "warning",
                code,
                f"{share} occur {how}in the training data as well",
                "split by prompt (distal data split): results on prompts that were trained on mean little",
            )


def as_dicts(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings fit for JSON."""
    return [finding.to_dict() for finding in findings]
