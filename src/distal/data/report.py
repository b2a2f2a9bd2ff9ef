"""What became of every row: counted while a data set is prepared, printed before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from distal.data.reasons import DROPPED, NOTED, RowProblem
from distal.types import DataKind

__all__ = ["DataReport", "RowCount", "Tally"]

_KEPT_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows met one fate, and the first of them.

    Attributes:
        count: number of source rows.
        first_rows: the first few of them, 0-based, in the order of the source.
        example: what was found in the first of them; empty where the fate says it all.
    """

    count: int
    first_rows: tuple[int, ...]
    example: str = ""


@dataclass(frozen=True)
class DataReport:
    """Rows of one data set by fate.

    Attributes:
        name: file, hub id or role of the data set.
        kind: paired or unpaired.
        n_read: rows in the source.
        n_kept: units (pairs or samples) of the tokenised data set.
        dropped: reason -> rows left out; the reasons are the keys of `distal.data.reasons.DROPPED`.
        noted: remark -> rows kept, but changed or remarkable; keys of `distal.data.reasons.NOTED`.
        n_desirable: kept units with a true label; None when paired.
        n_tokens: tokens of all kept rows, prompts included.
        longest: tokens of the longest kept row.
        notes: remarks about the data set as a whole, such as columns that are not used.
        n_offered: preferences that the rows offer, usable or not, where rows may offer several or none: of trees,
            lists and grades; rows and answers that offer none count as one each. None where each row is one.
    """

    name: str
    kind: DataKind
    n_read: int
    n_kept: int
    dropped: Mapping[str, RowCount] = field(default_factory=dict)
    noted: Mapping[str, RowCount] = field(default_factory=dict)
    n_desirable: int | None = None
    n_tokens: int = 0
    longest: int = 0
    notes: tuple[str, ...] = ()
    n_offered: int | None = None

    @property
    def n_dropped(self) -> int:
        """Rows left out, or preferences where rows offer several, for whatever reason."""
        return (self.n_read if self.n_offered is None else self.n_offered) - self.n_kept

    def summary(self) -> list[str]:
        r"""The report as lines of text.

        Examples:
            >>> report = DataReport(
            ...     "a.jsonl", "paired", 3, 2, {"empty_completion": RowCount(1, (2,))}, n_tokens=9
            ... )
            >>> print(*report.summary(), sep="\n")
            a.jsonl: 3 rows read, 2 kept (paired), 1 left out; 9 tokens, longest row 0
              left out 1: a completion is empty (row 2)
        """
        balance = "" if self.n_desirable is None else self._balance()
        offered = "" if self.n_offered in (None, self.n_read) else f"{self.n_offered} preferences offered, "
        tokens = f"; {self.n_tokens} tokens, longest row {self.longest}" if self.n_tokens else ""
        lines = [
            f"{self.name}: {self.n_read} rows read, {offered}{self.n_kept} kept ({self.kind}{balance}), "
            f"{self.n_dropped} left out{tokens}"
        ]
        lines += [f"  left out {c.count}: {_describe(DROPPED[r], c)}" for r, c in self.dropped.items()]
        lines += [f"  noted {c.count}: {_describe(NOTED[r], c)}" for r, c in self.noted.items()]
        return lines + [f"  note: {note}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries, lists, strings and numbers, fit for JSON."""
        record = asdict(self)
        for part in ("dropped", "noted"):
            record[part] = {
                key: {**count, "first_rows": list(count["first_rows"])} for key, count in record[part].items()
            }
        record["notes"] = list(self.notes)
        record["n_dropped"] = self.n_dropped
        record["n_offered"] = self.n_kept + self.n_dropped
        return record

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> DataReport:
        """The report that `to_dict` made a record of, also after a way through JSON."""
        kept: dict[str, Any] = {item.name: record[item.name] for item in fields(DataReport)}
        for part in ("dropped", "noted"):
            kept[part] = {
                key: RowCount(count["count"], tuple(count["first_rows"]), count["example"])
                for key, count in record[part].items()
            }
        kept["notes"] = tuple(record["notes"])
        return DataReport(**kept)

    def _balance(self) -> str:
        desirable = self.n_desirable or 0
        return f": {desirable} true, {self.n_kept - desirable} false"


def _describe(meaning: str, count: RowCount) -> str:
    rows = ", ".join(str(row) for row in count.first_rows)
    more = ", ..." if count.count > len(count.first_rows) else ""
    noun = "row" if count.count == 1 else "rows"
    example = f"; e.g. {count.example}" if count.example else ""
    return f"{meaning} ({noun} {rows}{more}{example})"


class Tally:
    """Counts fates while chunks of rows pass by; tallies of chunks are added up."""

    def __init__(self) -> None:
        self.n_read = 0
        self.n_offered = 0
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[tuple[int, str]]] = {}

    def drop(self, row: int, problem: RowProblem) -> None:
        """Count source row `row` as left out."""
        self._add(problem.reason, 1, [(row, str(problem))])

    def note(self, remark: str, rows: Sequence[int]) -> None:
        """Count source rows, in ascending order, as kept but remarkable; a key of `NOTED`."""
        if rows:
            self._add(remark, len(rows), [(row, "") for row in rows[:_KEPT_EXAMPLES]])

    def merge(self, other: Tally) -> None:
        """Add the tally of another chunk."""
        self.n_read += other.n_read
        self.n_offered += other.n_offered
        for fate, count in other._counts.items():
            self._add(fate, count, other._first[fate])

    def dropped(self) -> dict[str, RowCount]:
        """Rows left out by reason, commonest first."""
        return self._collect(DROPPED)

    def noted(self) -> dict[str, RowCount]:
        """Remarkable rows by remark, commonest first."""
        return self._collect(NOTED)

    def _add(self, fate: str, count: int, first: list[tuple[int, str]]) -> None:
        self._counts[fate] += count
        rows = dict(reversed(self._first.get(fate, []) + first))  # of a row with several, the first example
        self._first[fate] = sorted(rows.items())[:_KEPT_EXAMPLES]

    def _collect(self, meanings: Mapping[str, str]) -> dict[str, RowCount]:
        return {
            fate: RowCount(count, tuple(row for row, _ in self._first[fate]), self._first[fate][0][1])
            for fate, count in self._counts.most_common()
            if fate in meanings
        }
