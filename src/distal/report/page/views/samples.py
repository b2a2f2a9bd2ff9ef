"""Texts side by side, cut to what a page can carry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distal.report.page.generations import GENERATIONS, SampleTable
from distal.report.page.run import Run
from distal.report.page.views.parts import Missing, Table

__all__ = ["BUDGET", "SampleView", "island_json", "progress_table", "sample_view", "samples_missing"]

BUDGET = 8_500_000
"""Bytes that the texts of all samples may take; with the drawing library, the page stays below 15 MB."""

_SHORTEST_CUT = 120
_MOST_PROGRESS = 60
_LETTER = {"win": "w", "loss": "l", "tie": "t", None: ""}


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """What the page carries of the samples.

    Attributes:
        data: for the script that lists them.
        total: samples that there are.
        shown: samples that the page carries.
        cut: characters after which texts are cut; None where all are whole.
        files: where the whole texts stand.
        sources: data sets, to filter by.
        runs: that have outcomes, to filter by.
        columns: headings of the texts.
    """

    data: Mapping[str, Any]
    total: int
    shown: int
    cut: int | None
    files: tuple[str, ...]
    sources: tuple[str, ...]
    runs: tuple[str, ...]
    columns: tuple[str, ...]


def samples_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs without generations."""
    return [
        Missing(
            run=run.name,
            what="There are no generations to compare",
            file=f"{GENERATIONS}/before.json and after.json",
            command=f"distal evaluate generate --model {run.folder} --data PROMPTS "
            f"--output {run.folder / GENERATIONS / 'after.json'}",
        )
        for run in runs
        if run.samples is None
    ]


def sample_view(table: SampleTable, budget: int = BUDGET) -> SampleView:
    """The samples as the page carries them, in at most `budget` bytes.

    Texts are cut to one common length if need be; where even short ones do not fit, the last samples are left out.

    Args:
        table: the texts.
        budget: bytes of JSON.
    """
    longest = max((len(text) for row in _texts(table) for text in row if text), default=0)
    cut, shown = None, len(table.texts)
    if _size(table, None, shown) > budget:
        low, high = _SHORTEST_CUT, max(longest, _SHORTEST_CUT)
        while high - low > max(8, low // 50):  # the largest length that fits, to two per cent
            middle = (low + high) // 2
            low, high = (middle, high) if _size(table, middle, shown) <= budget else (low, middle)
        cut = low
        while shown > 1 and (size := _size(table, cut, shown)) > budget:
            shown = max(1, min(shown - 1, shown * budget // size))
    sources = tuple(dict.fromkeys(table.sources))
    return SampleView(
        data={
            "columns": table.columns,
            "runs": table.runs,
            "sources": sources,
            "rows": [_row(table, index, cut, sources) for index in range(shown)],
        },
        total=len(table.texts),
        shown=shown,
        cut=cut,
        files=table.files,
        sources=sources,
        runs=table.runs,
        columns=table.columns,
    )


def _texts(table: SampleTable) -> list[tuple[str | None, ...]]:
    return [(prompt, *texts) for prompt, texts in zip(table.instructions, table.texts, strict=True)]


def _size(table: SampleTable, cut: int | None, shown: int) -> int:
    """Bytes of the texts as JSON, with a little for what stands between them."""
    texts = [_cut(text, cut) for row in _texts(table)[:shown] for text in row]
    return len(island_json(texts).encode()) + 40 * shown


def _row(table: SampleTable, index: int, cut: int | None, sources: tuple[str, ...]) -> list[Any]:
    """Instruction, source, texts, their whole lengths in characters, outcomes."""
    texts = table.texts[index]
    return [
        _cut(table.instructions[index], cut),
        sources.index(table.sources[index]),
        [_cut(text, cut) for text in texts],
        [None if text is None else len(text) for text in texts],
        [_LETTER[outcome] for outcome in table.outcomes[index]],
    ]


def _cut(text: str | None, cut: int | None) -> str | None:
    if text is None or cut is None or len(text) <= cut:
        return text
    return text[:cut].rstrip() + " …"


def island_json(value: object) -> str:
    r"""JSON that can stand inside an element of a page: nothing in it can end the element or begin another.

    Half a surrogate pair, which is no character, becomes a question mark.

    Examples:
        >>> print(island_json("</script><!--"))
        "\u003c/script\u003e\u003c!--"
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "replace").decode("utf-8")


def progress_table(run: Run) -> Table | None:
    """What the model wrote in the course of training."""
    rows: list[tuple[str, str, str]] = []
    for record in run.sampled:
        output = next(
            (record[key] for key in ("answer", "output", "completion", "text") if key in record), None
        )
        prompt = next((record[key] for key in ("instruction", "prompt") if key in record), "")
        if isinstance(output, str):
            rows.append((str(record.get("step", "")), str(prompt), output))
    if not rows:
        return None
    kept = rows[:_MOST_PROGRESS]
    more = "" if len(kept) == len(rows) else f", the first {len(kept)} of {len(rows):,}"
    return Table(
        caption=f"Texts written in the course of training (samples.jsonl{more})",
        head=("step", "prompt", "text"),
        rows=kept,
        numeric=frozenset((0,)),
    )
