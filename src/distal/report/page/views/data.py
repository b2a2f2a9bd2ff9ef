"""The check of the data, as `distal data check --json` wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from distal.data.reasons import DROPPED, NOTED
from distal.report.page.reading import finite, mapping, records, text
from distal.report.page.run import Run
from distal.report.page.views.parts import Missing, Table

__all__ = ["data_missing", "data_tables"]

_FACTS = {
    "name": "data",
    "n_read": "rows read",
    "n_offered": "preferences offered",
    "n_kept": "kept",
    "n_dropped": "left out",
    "n_desirable": "of them liked",
    "n_tokens": "tokens",
    "longest": "longest row, tokens",
}
"""Entries of the report on rows, and what the page calls them."""


def data_missing(runs: Sequence[Run]) -> list[Missing]:
    """Runs of whose data nothing is known."""
    return [
        Missing(
            run=run.name,
            what="There is no report on the data to show",
            file="data.json",
            command=f"distal data check {run.config.get('data', 'DATA')} --json > {run.folder / 'data.json'}",
        )
        for run in runs
        if not run.data_lines and not run.data_check
    ]


def data_tables(run: Run) -> list[Table]:
    """Facts, findings, fates of rows, lengths and shared prompts; no table where there is nothing to say."""
    held = run.data_check
    if not held:
        return []
    parts = (_facts(held), _findings(held), _fates(held), _lengths(held), _overlaps(held))
    return [table for table in parts if table is not None]


def _facts(held: Mapping[str, Any]) -> Table | None:
    report = mapping(held.get("report"))
    rows = [
        ("verdict", (text(held.get("verdict")) or "").replace("_", " ")),
        ("format", _shown(held.get("format"))),
    ]
    rows += [(words, _shown(report.get(key))) for key, words in _FACTS.items() if report.get(key)]
    rows.append(("different prompts", _shown(held.get("prompts"))))
    rows = [(name, value) for name, value in rows if value]
    return Table(caption="The data as checked", head=("", "value"), rows=rows) if rows else None


def _findings(held: Mapping[str, Any]) -> Table | None:
    rows = [
        tuple(text(item.get(key)) or "" for key in ("level", "message", "remedy"))
        for item in records(held.get("findings"))
    ]
    return (
        Table(caption="Findings in the data", head=("level", "what", "what to do"), rows=rows)
        if rows
        else None
    )


def _fates(held: Mapping[str, Any]) -> Table | None:
    """Rows left out or noted, with the reason in words."""
    rows = list(_fate_rows(mapping(held.get("report"))))
    if not rows:
        return None
    head = ("fate", "rows", "why", "first rows", "for example")
    return Table(caption="Rows left out or noted", head=head, rows=rows, numeric=frozenset((1,)))


def _fate_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, fate, meanings in (("dropped", "left out", DROPPED), ("noted", "noted", NOTED)):
        for reason, count in mapping(report.get(key)).items():
            held = mapping(count)
            rows = held.get("first_rows")
            first = ", ".join(map(str, cast(list[object], rows))) if isinstance(rows, list) else ""
            words = meanings.get(reason, reason)
            yield fate, _shown(held.get("count")), words, first, text(held.get("example")) or ""


def _lengths(held: Mapping[str, Any]) -> Table | None:
    """Quantiles of the lengths of liked and disliked completions."""
    lengths = mapping(held.get("lengths"))
    columns = [lengths.get(key) for key in ("levels", "liked", "disliked")]
    if not all(isinstance(column, list) for column in columns):
        return None
    rows: list[tuple[str, ...]] = [
        (f"{100 * level:g} %", f"{liked:,.0f}", f"{disliked:,.0f}")
        for level, liked, disliked in (
            tuple(finite(value) for value in row)
            for row in zip(*cast(list[list[object]], columns), strict=False)
        )
        if level is not None and liked is not None and disliked is not None
    ]
    means = [finite(lengths.get(key)) for key in ("mean_liked", "mean_disliked")]
    if None not in means:
        rows.append(("mean", *(f"{mean:,.1f}" for mean in means)))
    bias = "; the check calls them biased" if lengths.get("is_biased") is True else ""
    caption = f"Lengths of completions, {_shown(lengths.get('unit'))}{bias}"
    return Table(
        caption=caption, head=("level", "liked", "disliked"), rows=rows, numeric=frozenset((0, 1, 2))
    )


def _overlaps(held: Mapping[str, Any]) -> Table | None:
    keys = ("other", "held_out_prompts", "exact", "near")
    rows = [[_shown(item.get(key)) for key in keys] for item in records(held.get("overlaps"))]
    if not rows:
        return None
    head = ("held out", "prompts", "the same", "nearly the same")
    caption = "Prompts shared with held-out data"
    return Table(caption=caption, head=head, rows=rows, numeric=frozenset((1, 2, 3)))


def _shown(value: object) -> str:
    """A text or a count; nothing for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else ""
