"""What the command line shows of a result."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from distal.evaluation import (
    CertificateSet,
    Decision,
    DominanceCertificate,
    LawComparison,
    RunComparison,
    Slices,
    format_interval,
    format_ratio,
)

__all__ = ["certificate_table", "certificate_tables"]

_COLOURS: dict[Decision, str] = {
    "dominance": "bold green",
    "almost_dominance": "bold cyan",
    "not_supported": "bold yellow",
    "undefined": "bold magenta",
}

_SHOWN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def certificate_tables(result: DominanceCertificate | CertificateSet) -> list[Table]:
    """Everything that a result says, table by table: certificates, their slices, comparisons of runs.

    Args:
        result: one certificate, or several of the same rows.
    """
    named = (
        {f"Dominance certificate: {name}": one for name, one in result.certificates.items()}
        if isinstance(result, CertificateSet)
        else {"Dominance certificate": result}
    )
    tables: list[Table] = []
    for title, certificate in named.items():
        tables.append(certificate_table(certificate, title=title))
        if certificate.slices is not None:
            tables.append(_slice_table(certificate.slices))
    if isinstance(result, CertificateSet) and result.comparisons:
        tables.append(_comparison_table(result.comparisons))
    return tables


def _slice_table(slices: Slices) -> Table:
    """One row per slice."""
    table = Table(title="Slices", title_justify="left", title_style="bold", caption_justify="left")
    for column in (
        "slice",
        "preferred",
        "other",
        "violation ratio",
        "interval",
        "mean gap",
        "adjusted p",
        "",
    ):
        table.add_column(column, justify="left" if column in ("slice", "") else "right")
    words = {"too_small": "too small, not tested", "undefined": "laws coincide"}
    for part in slices.slices:
        said = words.get(part.status, "dominates" if part.dominates else "not supported")
        tested = part.status == "tested"
        table.add_row(
            Text(f"{part.attribute} {part.value}"),
            f"{part.n_preferred:,}",
            f"{part.n_other:,}",
            format_ratio(part.violation_ratio) if tested else "",
            format_interval(part.violation_ratio_ci) if tested else "",
            "" if part.mean_gap is None else f"{part.mean_gap:+.3f}",
            "" if part.p_adjusted is None else f"{part.p_adjusted:.3g}",
            said,
        )
    table.caption = Text(
        f"{slices.tested} slices tested; p-values by Holm's correction, level {slices.level:g}, "
        f"against a ratio of {slices.threshold:g}."
    )
    return table


def _comparison_table(comparisons: Sequence[RunComparison]) -> Table:
    """One row per ordered pair of runs."""
    table = Table(
        title="Runs beside each other", title_justify="left", title_style="bold", caption_justify="left"
    )
    for column in (
        "run over run",
        "violation ratio",
        "interval",
        "mean gap difference",
        "adjusted p",
        "relative p",
    ):
        table.add_column(column, justify="left" if column == "run over run" else "right")
    for one in comparisons:
        low, high = one.mean_gap_difference_ci
        table.add_row(
            Text(f"{one.run} over {one.other}"),
            format_ratio(one.violation_ratio) if one.violation_ratio is not None else "no difference",
            "" if one.violation_ratio is None else format_interval(one.violation_ratio_ci),
            f"{one.mean_gap_difference:+.3f} [{low:+.3f}, {high:+.3f}]",
            *("" if p is None else f"{p:.3g}" for p in (one.p_adjusted, one.p_relative_adjusted)),
        )
    table.caption = Text("\n".join(one.verdict for one in comparisons))
    return table


def certificate_table(certificate: DominanceCertificate, *, title: str = "Dominance certificate") -> Table:
    """A certificate as a table for the terminal: numbers with their intervals, the verdict below.

    Args:
        certificate: what to show.
        title: title of the table.

    Returns:
        A table of three columns, to be printed by a `rich` console.

    Examples:
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
    if certificate.clusters is not None:
        table.add_row("prompts, resampled as wholes", f"{certificate.clusters:,}", "")
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
    controlled = certificate.length_controlled
    if controlled is not None:
        table.add_section()
        table.add_row("at equal completion lengths", "", "", style="italic")
        _add_comparison(table, controlled)
        table.add_row("AUC", f"{controlled.auc:.3f}", format_interval(controlled.auc_ci))
        balance = controlled.balance
        before, after = (
            f"{one:.0f}, {two:.0f}"
            for one, two in (
                (balance.mean_preferred, balance.mean_other),
                (balance.weighted_preferred, balance.weighted_other),
            )
        )
        table.add_row("mean tokens (preferred, other)", after, f"before: {before}")
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
    if comparison.test is not None:
        table.add_row(f"p-value (ratio >= {comparison.threshold:g})", f"{comparison.test.p_value:.3g}", "")
    if comparison.second_order is not None:
        second = comparison.second_order
        table.add_row(
            "violation ratio, second order",
            format_ratio(second.violation_ratio),
            format_interval(second.violation_ratio_ci),
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
    if certificate.second_order is not None:
        second = certificate.second_order
        caption.append(
            f"\n{second.verdict('preferred rewards', 'other rewards')}", style=_COLOURS[second.decision]
        )
    if certificate.length_controlled is not None:
        controlled = certificate.length_controlled
        caption.append(f"\nAt equal lengths: {controlled.verdict}", style=_COLOURS[controlled.decision])
    for note in certificate.notes:
        caption.append(f"\nNote: {note}.", style="yellow")
    return caption
