"""Findings: what a guard says, and what a whole run's file of them comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from distal.training.health.log import read_records
from distal.training.health.thresholds import HealthThresholds

__all__ = ["Finding", "HealthSummary", "Occurrence", "health_summary"]

Severity = Literal["warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        guard: which guard found it; the name of its threshold, if it has one.
        severity: `error` stops the run.
        value: what was measured; None for errors.
        threshold: that it passed.
        message: what is the matter.
        advice: what to do.
    """

    guard: str
    message: str
    advice: str = ""
    severity: Severity = "warning"
    value: float | None = None
    threshold: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A record for the health file."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Finding:
        """Back from a record."""
        return cls(**record)

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}".strip() if self.advice else self.message


@dataclass(frozen=True)
class Occurrence:
    """A finding, the step at which it first came up, for how many steps it held, and the last of them."""

    finding: Finding
    first_step: int
    steps: int
    last_step: int


@dataclass(frozen=True)
class HealthSummary:
    """What the health file of a run comes to.

    Attributes:
        last_step: of the run.
        window: steps that the guards judge together; a shorter run was not judged.
        occurrences: each finding once, in order of appearance.
    """

    last_step: int
    window: int
    occurrences: tuple[Occurrence, ...]

    def lines(self) -> list[str]:
        """For people, one line each."""
        if not self.occurrences:
            short = f" (too few to judge: the guards look at {self.window} together)"
            return [
                f"Health: nothing found in {self.last_step} steps{short * (self.last_step < self.window)}."
            ]
        lines = [f"Health: {len(self.occurrences)} finding{'s' * (len(self.occurrences) > 1)}."]
        for found in self.occurrences:
            held = f"step {found.first_step}"
            if found.steps > 1:
                held += f", {found.steps} steps until {found.last_step}"
            lines.append(f"  {found.finding.guard} ({found.finding.severity}; {held}): {found.finding}")
        return lines


def health_summary(path: str | Path, thresholds: HealthThresholds) -> HealthSummary | None:
    """Read a run's health file.

    Args:
        path: the file.
        thresholds: that the run had.

    Returns:
        None where there is no file, or nothing in it.
    """
    records = read_records(Path(path))
    if not records:
        return None
    found: dict[str, Finding] = {}
    steps: dict[str, list[int]] = {}
    for record in records:
        for entry in record.get("findings", []):
            finding = Finding.from_json(entry)
            found[finding.guard] = finding
            steps.setdefault(finding.guard, [record["step"]])
        for guard in record.get("active", []):
            if steps.setdefault(guard, [record["step"]])[-1] != record["step"]:
                steps[guard].append(record["step"])
    occurrences = [
        Occurrence(finding, steps[guard][0], len(steps[guard]), steps[guard][-1])
        for guard, finding in found.items()
    ]
    return HealthSummary(records[-1]["step"], thresholds.window, tuple(occurrences))
