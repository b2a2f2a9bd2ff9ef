"""A check of data as one HTML file that needs nothing else; whatever comes from the data is escaped."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from distal.data.checking import DataCheck, Sample
from distal.data.lengths import LengthComparison
from distal.data.reasons import DROPPED, NOTED
from distal.report.data_terminal import describe_lengths, verdict_line
from distal.report.text import printable

__all__ = ["check_html", "lengths_figure"]

_LIKED, _DISLIKED = "#0072B2", "#D55E00"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f7f7f7; padding: .8em; border-radius: 4px; }
h1 { font-size: 1.4em; overflow-wrap: anywhere; }
h2 { font-size: 1.1em; margin-top: 2em; }
svg { max-width: 100%; height: auto; }
.read, .remedy { color: #666; }
.liked { color: #005a8d; background: #eaf4fa; }
.disliked { color: #a94400; background: #fdf1e8; }
.error { color: #b00020; }
.warning { color: #8a5a00; }
.note { color: #00629b; }
"""


def check_html(check: DataCheck) -> str:
    """The check as a page: verdict, findings, fates, lengths, shared prompts and samples.

    Args:
        check: what to show.

    Returns:
        HTML without scripts, links or images from elsewhere.
    """
    name = _shown(check.report.name)
    parts = [
        f"<h1>{name}</h1>",
        f"<p><strong>{_shown(verdict_line(check).plain)}</strong></p>",
        _findings(check),
        "<h2>Rows</h2>",
        f"<p>{_shown(check.report.summary()[0])}; {check.n_prompts:,} different prompts; format "
        f"{_shown(check.format)}</p>",
        _fates(check),
        _lengths(check.lengths),
        _overlaps(check),
        "<h2>Samples</h2>" if check.samples else "",
        *map(_sample, check.samples),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _shown(text: str) -> str:
    """A text as it may stand in a page."""
    return escape(printable(text))


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers to the right."""

    def cell(value: object) -> str:
        is_number = isinstance(value, int | float)
        written = f"{value:,}" if is_number else str(value)
        return f'<td class="n">{written}</td>' if is_number else f"<td>{_shown(written)}</td>"

    lines = ["<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows]
    top = "".join(f"<th>{_shown(name)}</th>" for name in head)
    return f"<table><tr>{top}</tr>{''.join(lines)}</table>" if lines else ""


def _findings(check: DataCheck) -> str:
    items = [
        f'<li><span class="{finding.level}">{finding.level}: </span>{_shown(finding.message)}'
        f'<br><span class="remedy">{_shown(finding.remedy)}</span></li>'
        for finding in check.findings
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _fates(check: DataCheck) -> str:
    rows: list[Sequence[object]] = []
    for what, counts, meanings in (
        ("left out", check.report.dropped, DROPPED),
        ("noted", check.report.noted, NOTED),
    ):
        for reason, count in counts.items():
            first = ", ".join(map(str, count.first_rows))
            rows.append((what, count.count, meanings[reason], first, count.example))
    notes = "".join(f"<li>{_shown(note)}</li>" for note in check.report.notes)
    return _table(("fate", "rows", "why", "first rows", "for example"), rows) + f"<ul>{notes}</ul>"


def _lengths(lengths: LengthComparison | None) -> str:
    if lengths is None:
        return ""
    return (
        f"<h2>Completion lengths in {_shown(lengths.unit)}</h2>\n<p>{_shown(describe_lengths(lengths))}</p>\n"
        f"{lengths_svg(lengths)}"
    )


def _overlaps(check: DataCheck) -> str:
    if not check.overlaps:
        return ""
    rows = [(o.other, o.n_prompts, o.n_exact, o.n_near) for o in check.overlaps]
    near = [
        (example[0], example[1], round(example[2], 2), example[3], example[4])
        for overlap in check.overlaps
        for example in overlap.near_examples
    ]
    return (
        "<h2>Prompts shared with held-out data</h2>"
        + _table(("held out", "prompts", "exactly", "nearly"), rows)
        + _table(("held-out row", "row", "similarity", "held-out prompt", "prompt"), near)
    )


def _sample(sample: Sample) -> str:
    side = "liked" if sample.desirable else "disliked"
    size = "" if sample.tokens is None else f", {sample.tokens[0]} tokens read and {sample.tokens[1]} scored"
    pieces = "".join(
        f'<span class="{side if scored else "read"}">{_shown(text)}</span>' for text, scored in sample.pieces
    )
    return (
        f"<p>Row {sample.source_row}, {side}{size}; what is scored is coloured.</p>"
        f'<pre><span class="read">{_shown(sample.prompt)}</span>{pieces}</pre>'
    )


def lengths_figure(lengths: LengthComparison) -> Figure:
    """Quantile functions of the lengths of liked and disliked completions."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    liked, disliked = lengths.curve
    levels = [index / (len(liked) - 1) for index in range(len(liked))]
    axes.step(levels, liked, where="pre", color=_LIKED, label=f"liked ({lengths.n_liked:,})")
    axes.step(levels, disliked, where="pre", color=_DISLIKED, label=f"disliked ({lengths.n_disliked:,})")
    axes.set(xlabel="level", ylabel=f"length ({lengths.unit})", xlim=(0, 1))
    if min(*liked, *disliked) > 0:
        axes.set_yscale("log")
    axes.grid(color="#E4E4E4")
    axes.legend(frameon=False, loc="upper left")
    return figure


def lengths_svg(lengths: LengthComparison) -> str:
    """The figure as an SVG element."""
    figure, buffer = lengths_figure(lengths), io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    # What precedes the element names a document type on another server, and its metadata addresses of vocabularies.
    svg = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
