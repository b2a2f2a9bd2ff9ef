"""What the command line shows of a result."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from distal.evaluation import Decision, DominanceCertificate, LawComparison, format_interval, format_ratio

__all__ = ["certificate_table"]

_COLOURS: dict[Decision, str] = {
    "dominance": "bold green",
    "almost_dominance": "bold cyan",
    "not_supported": "bold yellow",
    "undefined": "bold magenta",
}

_SHOWN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def certificate_table(certificate: DominanceCertificate, *, title: str = "Dominance certificate") -> Table:
    """A certificate as a table for the terminal: numbers with their intervals, the verdict below.

    Args:
        certificate: what to show.
        title: title of the table.

    Returns:
        A table of three columns, to be printed by a `rich` console.

    Example:
        >>> from distal.evaluation import dominance_certificate
        >>> table = certificate_table(dominance_certificate([0.0, 0.0], [0.0, 0.0], paired=False))
        >>> table.row_count > 5
        True
    """
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("held-out rewards")
    table.add_column("value", justify="right")
    table.add_column(f"{100 * certificate.confidence:g} % interval", justify="right")
    pairs = certificate.kind == "paired"
    samples = f"{certificate.n_preferred:,} pairs" if pairs else ""
    table.add_row(
        "samples", samples or f"{certificate.n_preferred:,} preferred, {certificate.n_other:,} other", ""
    )
    _add_comparison(table, certificate)
    table.add_row("AUC (P preferred > other)", f"{certificate.auc:.3f}", format_interval(certificate.auc_ci))
    if certificate.accuracy is not None and certificate.accuracy_ci is not None:
        ties = f" ({certificate.tied_pairs:,} ties)" if certificate.tied_pairs else ""
        share, interval = f"{certificate.accuracy:.3f}{ties}", format_interval(certificate.accuracy_ci)
        table.add_row("share of pairs ranked right", share, interval)
    if certificate.margins is not None:
        table.add_section()
        table.add_row("policy against reference margins", "", "", style="italic")
        _add_comparison(table, certificate.margins)
    table.add_section()
    _add_quantiles(table, certificate)
    table.caption = _caption(certificate)
    return table


def _add_comparison(table: Table, comparison: LawComparison) -> None:
    """Rows that a comparison of two laws has, whatever they are the laws of."""
    table.add_row(
        "violation ratio",
        format_ratio(comparison.violation_ratio),
        format_interval(comparison.violation_ratio_ci),
    )
    table.add_row("share of levels violated", format_ratio(comparison.violated_share), "")
    low, high = comparison.mean_gap_ci
    table.add_row("mean gap (nats)", f"{comparison.mean_gap:+.3f}", f"[{low:+.3f}, {high:+.3f}]")


def _add_quantiles(table: Table, certificate: DominanceCertificate) -> None:
    """A few quantiles of both sides, with the band of their gap."""
    curves = certificate.curves
    table.add_row("quantiles (nats)", "preferred, other", "of their gap", style="italic")
    for wanted in _SHOWN_QUANTILES:
        index = min(range(len(curves.levels)), key=lambda i: abs(curves.levels[i] - wanted))
        table.add_row(
            f"{100 * curves.levels[index]:.0f} % quantiles",
            f"{curves.u[index]:+.3f}, {curves.v[index]:+.3f}",
            f"[{curves.gap_low[index]:+.3f}, {curves.gap_high[index]:+.3f}]",
        )


def _caption(certificate: DominanceCertificate) -> Text:
    """Verdicts and cautions."""
    caption = Text(certificate.verdict, style=_COLOURS[certificate.decision])
    if certificate.margins is not None:
        caption.append(
            f"\nMargins: {certificate.margins.verdict}", style=_COLOURS[certificate.margins.decision]
        )
    for note in certificate.notes:
        caption.append(f"\nNote: {note}.", style="yellow")
    return caption
