"""A check of data on the terminal: verdict, fates, lengths of both classes, samples with the scored part in colour."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distal.data.checking import DataCheck, Sample
from distal.data.lengths import LengthComparison
from distal.report.text import printable

__all__ = ["LIKED_COLOUR", "check_view", "sample_text", "verdict_line"]

LIKED_COLOUR = {True: "green", False: "red"}
_LEVELS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_VERDICTS = {
    "usable": ("usable", "bold green"),
    "usable_with_warnings": ("usable, with warnings", "bold yellow"),
    "not_usable": ("not usable", "bold red"),
}
_BAR = 36
_SHOWN = 600


def verdict_line(check: DataCheck) -> Text:
    """The verdict in one line."""
    words, style = _VERDICTS[check.verdict]
    return Text.assemble("Verdict: ", (words, style))


def check_view(check: DataCheck) -> Group:
    """A check as something a `rich` console prints."""
    return Group(*_parts(check))


def _parts(check: DataCheck) -> Iterator[RenderableType]:
    for line in check.report.summary():
        yield Text(printable(line))
    yield Text(f"  {check.n_prompts} different prompts")
    if check.lengths is not None:
        yield Text()
        yield lengths_table(check.lengths)
    for overlap in check.overlaps:
        yield Text(
            f"\n{printable(overlap.other)}: {overlap.n_prompts} prompts, {overlap.n_exact} of them exactly and "
            f"{overlap.n_near} nearly in the training data"
        )
    for sample in check.samples:
        yield Text()
        yield from sample_text(sample)
    if check.findings:
        yield Text()
    for finding in check.findings:
        yield Text.assemble((f"{finding.level}: ", _LEVELS[finding.level]), printable(finding.message))
        if finding.remedy:
            yield Text(f"  {printable(finding.remedy)}", style="dim")
    yield Text()
    yield verdict_line(check)


def lengths_table(lengths: LengthComparison) -> Table:
    """Quantiles of the lengths of both classes, with a bar for each."""
    table = Table(
        title=f"Completion lengths in {lengths.unit}",
        title_justify="left",
        title_style="bold",
        caption_justify="left",
    )
    table.add_column("quantile", justify="right")
    table.add_column("liked", justify="right", style=LIKED_COLOUR[True])
    table.add_column("disliked", justify="right", style=LIKED_COLOUR[False])
    table.add_column("")
    top = max(*lengths.liked, *lengths.disliked, 1.0)
    for level, liked, disliked in zip(lengths.levels, lengths.liked, lengths.disliked, strict=True):
        bars = Text.assemble((_bar(liked / top), "green"), "\n", (_bar(disliked / top), "red"))
        table.add_row(f"{level:.0%}", f"{liked:,.0f}", f"{disliked:,.0f}", bars)
    table.add_row("mean", f"{lengths.mean_liked:,.1f}", f"{lengths.mean_disliked:,.1f}", "")
    table.caption = Text(describe_lengths(lengths))
    return table


def describe_lengths(lengths: LengthComparison) -> str:
    """The statistics of a comparison in words."""
    ratio = "undefined" if lengths.violation_ratio is None else f"{lengths.violation_ratio:.3f}"
    pairs = "" if lengths.longer_chosen is None else f", {lengths.longer_chosen:.1%} of pairs"
    return (
        f"liked longer than disliked: {lengths.auc:.1%} of all comparisons (1.96 standard errors: "
        f"{1.96 * lengths.auc_error:.1%}){pairs}; violation ratio of liked over disliked lengths {ratio} (0: liked are "
        f"longer at every quantile, 1: shorter)"
    )


def _bar(share: float) -> str:
    return "▇" * round(_BAR * share) or "▏"


def sample_text(sample: Sample) -> Iterator[Text]:
    """A sample: what is read dim, what is scored in the colour of its label."""
    side = "liked" if sample.desirable else "disliked"
    size = ""
    if sample.tokens is not None:
        size = f", {sample.tokens[0]} tokens read and {sample.tokens[1]} scored"
    yield Text(f"row {sample.source_row}, {side}{size}", style="bold")
    colour = LIKED_COLOUR[sample.desirable]
    pieces = [(_cut(text), colour if scored else "dim") for text, scored in sample.pieces]
    yield Text.assemble((_cut(sample.prompt, keep_end=True), "dim"), *pieces)
    if sample.tokens is not None:
        before, after = (" ".join(map(_quoted, names)) for names in sample.boundary)
        yield Text.assemble("tokens at the boundary: ", (before, "dim"), " | ", (after, colour))


def _quoted(token: str) -> str:
    return _cut(token).replace("\n", "\\n")


def _cut(text: str, *, keep_end: bool = False) -> str:
    """A text cut to what fits."""
    if len(text) > _SHOWN:
        text = f"[...] {text[-_SHOWN:]}" if keep_end else f"{text[:_SHOWN]} [...]"
    return printable(text)
