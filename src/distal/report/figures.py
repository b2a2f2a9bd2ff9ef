"""Figures that show what a dominance certificate states, without touching matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from distal.errors import DataError
from distal.evaluation import Decision, DominanceCertificate, format_interval, format_ratio
from distal.evaluation.files import write_atomically

__all__ = ["plot_reward_quantiles", "reward_quantiles_figure"]

# Blue and vermilion of Okabe and Ito's palette: distinct under every common colour blindness, and in grey.
_PREFERRED, _OTHER = "#0072B2", "#D55E00"
_INK, _MUTED, _GRID = "#222222", "#666666", "#E4E4E4"
_BAND = "#C9CED6"

_DECISION_WORDS: Mapping[Decision, str] = {
    "dominance": "dominance supported",
    "almost_dominance": "almost dominance",
    "not_supported": "dominance not supported",
    "undefined": "dominance undefined",
}

_DPI = 200
_LONE_COLUMN_INCHES, _COLUMN_INCHES, _HEIGHT_INCHES = 5.6, 3.9, 6.8
_LEFT_INCHES, _BETWEEN_INCHES, _RIGHT_INCHES = 0.85, 0.95, 0.95
_HEADER_INCHES, _FOOTER_INCHES = 1.46, 1.05


def plot_reward_quantiles(
    certificates: Mapping[str, DominanceCertificate], path: str | Path, *, title: str | None = None
) -> Path:
    """Draw reward quantiles of preferred and other responses, and their gap, into a PNG file.

    Args:
        certificates: one per stage, such as `before` and `after`, drawn side by side on equal axes.
        path: PNG file to write, atomically.
        title: title of the figure; None for a neutral one.

    Returns:
        The path written.

    Raises:
        DataError: no certificate was given.
        OutputError: the file cannot be written.
    """
    figure = reward_quantiles_figure(certificates, title=title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_atomically(path, buffer.getvalue())


def reward_quantiles_figure(
    certificates: Mapping[str, DominanceCertificate], *, title: str | None = None
) -> Figure:
    """The figure that `plot_reward_quantiles` saves.

    The upper row shows both quantile functions, the area between them tinted in the colour of the larger; the
    lower row their gap with its bootstrap band, violated levels shaded. Under dominance no gap is negative.

    Args:
        certificates: one certificate per stage; columns share their axes.
        title: title of the figure; None for a neutral one.

    Returns:
        A figure with two axes per stage: quantiles at even, gaps at odd positions.

    Raises:
        DataError: no certificate was given.
    """
    if not certificates:
        raise DataError("there is nothing to draw: give at least one certificate")
    column_width = _LONE_COLUMN_INCHES if len(certificates) == 1 else _COLUMN_INCHES
    between = _BETWEEN_INCHES * (len(certificates) - 1)
    width = _LEFT_INCHES + column_width * len(certificates) + between + _RIGHT_INCHES
    figure = Figure(figsize=(width, _HEIGHT_INCHES), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)  # draws into memory: neither a window nor pyplot is involved
    grid = figure.add_gridspec(
        2,
        len(certificates),
        height_ratios=(1.55, 1),
        left=_LEFT_INCHES / width,
        right=1 - _RIGHT_INCHES / width,
        top=1 - _HEADER_INCHES / _HEIGHT_INCHES,
        bottom=_FOOTER_INCHES / _HEIGHT_INCHES,
        hspace=0.22,
        wspace=_BETWEEN_INCHES / column_width,
    )
    reward_limits, gap_limits = (
        _limits(certificates.values(), gap=False),
        _limits(certificates.values(), gap=True),
    )
    for column, (stage, certificate) in enumerate(certificates.items()):
        upper, lower = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        _style(upper, reward_limits, "reward (nats)")
        _style(lower, gap_limits, "quantile gap (nats)")
        upper.tick_params(labelbottom=False)
        if column > 0:
            for axes in (upper, lower):
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
        lower.set_xlabel("quantile level", color=_MUTED, fontsize=9)
        _draw_quantiles(upper, certificate)
        _draw_gap(lower, certificate)
        _draw_header(upper, stage, certificate)
    figure.align_ylabels()
    _draw_frame_text(figure, title, next(iter(certificates.values())).confidence)
    return figure


def _limits(certificates: Iterable[DominanceCertificate], *, gap: bool) -> tuple[float, float]:
    """Common limits of a row of axes: all curves, zero, and a little air."""
    values = [0.0]
    for certificate in certificates:
        curves = certificate.curves
        shown = (curves.gap, curves.gap_low, curves.gap_high) if gap else (curves.u, curves.v)
        values += [bound for curve in shown for bound in (min(curve), max(curve))]
    low, high = min(values), max(values)
    air = 0.08 * (high - low)
    return (low - air, high + air) if high > low else (-1.0, 1.0)


def _style(axes: Axes, limits: tuple[float, float], label: str) -> None:
    """Quiet axes: no box, a light grid, levels in per cent."""
    axes.set_xlim(0, 1)
    axes.set_ylim(*limits)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter(FuncFormatter(_level_words))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_ylabel(label, color=_MUTED, fontsize=9)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, colors=_MUTED)
    axes.tick_params(axis="x", pad=7)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axhline(0, color=_INK, linewidth=0.9, zorder=2, gid="zero")


def _draw_quantiles(axes: Axes, certificate: DominanceCertificate) -> None:
    """Both quantile functions, the area between them in the colour of the larger."""
    levels, u, v = (
        np.array(values) for values in (certificate.levels, certificate.curves.u, certificate.curves.v)
    )
    axes.fill_between(levels, u, v, where=u >= v, interpolate=True, color=_PREFERRED, alpha=0.13, linewidth=0)
    axes.fill_between(levels, u, v, where=u < v, interpolate=True, color=_OTHER, alpha=0.25, linewidth=0)
    # The dashes lie on top, so that both colours show where the curves coincide.
    axes.plot(levels, u, color=_PREFERRED, linewidth=2.4, gid="preferred", zorder=3)
    axes.plot(levels, v, color=_OTHER, linewidth=2, linestyle=(0, (4, 2)), gid="other", zorder=4)
    upper, lower = _apart(axes, float(u[-1]), float(v[-1]))
    _label_end(axes, upper, "preferred", _PREFERRED)
    _label_end(axes, lower, "other", _OTHER)


def _draw_gap(axes: Axes, certificate: DominanceCertificate) -> None:
    """The quantile gap with its band, over the levels at which it is negative."""
    curves = certificate.curves
    levels, gap = np.array(curves.levels), np.array(curves.gap)
    for start, stop in _runs(gap < 0):
        half = (levels[1] - levels[0]) / 2
        left, right = levels[start] - half, levels[stop - 1] + half
        axes.axvspan(left, right, color=_OTHER, alpha=0.16, linewidth=0, zorder=0, gid="violated")
    axes.fill_between(levels, curves.gap_low, curves.gap_high, color=_BAND, alpha=0.75, linewidth=0, zorder=1)
    axes.plot(levels, gap, color=_INK, linewidth=1.8, gid="gap", zorder=3)
    share = certificate.violated_share
    if certificate.violation_ratio is None:
        words, colour = "preferred and other coincide at every level", _MUTED
    elif share == 0:
        words, colour = "no level violated", _PREFERRED
    else:
        words, colour = f"{_share_words(share)} of levels violated", _OTHER
    axes.text(0, 1.04, words, transform=axes.transAxes, va="bottom", color=colour, fontsize=9, weight="bold")


def _draw_header(axes: Axes, stage: str, certificate: DominanceCertificate) -> None:
    """Stage, decision and the numbers behind it, above its column."""
    words = _DECISION_WORDS[certificate.decision]
    ratio = certificate.undefined_reason
    if ratio is None:
        interval = format_interval(certificate.violation_ratio_ci)
        ratio = f"violation ratio {format_ratio(certificate.violation_ratio)} {interval}"
    ranked = f"AUC {certificate.auc:.2f}   mean gap {certificate.mean_gap:+.2f} nats"
    counts = f"n = {certificate.n_preferred:,} preferred, {certificate.n_other:,} other"
    if certificate.accuracy is not None:
        ranked += f"   {100 * certificate.accuracy:.0f} % of pairs ranked right"
        counts = f"n = {certificate.n_preferred:,} pairs"
    lines = ((stage, 44, 12, _INK, "bold"), (f"{words}: {ratio}", 29, 9, _INK, "normal"))
    for text, height, size, colour, weight in (*lines, (f"{ranked}   {counts}", 15, 8, _MUTED, "normal")):
        axes.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, height),
            textcoords="offset points",
            va="baseline",
            color=colour,
            fontsize=size,
            weight=weight,
        )


def _draw_frame_text(figure: Figure, title: str | None, confidence: float) -> None:
    """Title above everything, and how to read the figure below."""
    width, height = figure.get_size_inches()
    left = 0.28 / width
    figure.text(
        left,
        1 - 0.38 / height,
        title if title is not None else "Reward quantiles of preferred and other responses",
        fontsize=13.5,
        weight="bold",
        color=_INK,
    )
    figure.text(
        left,
        0.16 / height,
        "Reward: log-probability under the policy minus that under the reference. "
        "Shaded levels: dominance violated.\n"
        f"Gap: preferred minus other at one level, with its pointwise {100 * confidence:g} % bootstrap band.",
        fontsize=7.5,
        color=_MUTED,
        linespacing=1.5,
    )


def _label_end(axes: Axes, height: float, text: str, colour: str) -> None:
    """A label at the right end of a curve."""
    axes.annotate(
        text,
        (1, height),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9,
        weight="bold",
    )


def _apart(axes: Axes, u: float, v: float) -> tuple[float, float]:
    """Heights of two labels, moved apart about their middle where they would overlap."""
    low, high = axes.get_ylim()
    needed = 0.07 * (high - low)
    if abs(u - v) >= needed:
        return u, v
    middle, sign = (u + v) / 2, 1 if u >= v else -1
    return middle + sign * needed / 2, middle - sign * needed / 2


def _runs(mask: np.ndarray) -> Sequence[tuple[int, int]]:
    """Start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True))


def _level_words(level: float, _: int | None = None) -> str:
    """A tick of the level axis."""
    return f"{100 * level:.0f} %"


def _share_words(share: float) -> str:
    """A share of levels in per cent, never rounded to none or all."""
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"
