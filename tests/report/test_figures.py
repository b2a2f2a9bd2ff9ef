"""What the figure contains, and that the file is a picture."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from distal.errors import DataError, OutputError
from distal.evaluation import DominanceCertificate, dominance_certificate
from distal.report.figures import plot_reward_quantiles, reward_quantiles_figure

Stages = dict[str, DominanceCertificate]


@pytest.fixture(scope="module")
def stages():
    generator = np.random.default_rng(0)
    after = dominance_certificate(
        generator.normal(1, 3, 300), generator.normal(0, 1, 200), paired=False, resamples=50
    )
    return {
        "before": dominance_certificate(np.zeros(9), np.zeros(9), paired=True, resamples=50),
        "after": after,
    }


def _artists(axes: Axes, gid: str) -> list[Any]:
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def _texts(figure: Figure):
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return "\n".join(inside + [text.get_text() for text in figure.texts])


def test_curves_are_those_of_the_certificates(stages: Stages):
    figure = reward_quantiles_figure(stages)
    assert len(figure.axes) == 4
    for column, certificate in enumerate(stages.values()):
        upper, lower = figure.axes[2 * column : 2 * column + 2]
        for axes, gid, values in (
            (upper, "preferred", certificate.curves.u),
            (upper, "other", certificate.curves.v),
            (lower, "gap", certificate.curves.gap),
        ):
            (line,) = _artists(axes, gid)
            np.testing.assert_array_equal(line.get_xdata(), certificate.levels)
            np.testing.assert_array_equal(line.get_ydata(), values)
        for axes in (upper, lower):
            (zero,) = _artists(axes, "zero")
            np.testing.assert_array_equal(zero.get_ydata(), [0, 0])


def test_violated_levels_are_shaded_and_no_others(stages: Stages):
    figure = reward_quantiles_figure(stages)
    assert not _artists(figure.axes[1], "violated")
    spans = _artists(figure.axes[3], "violated")
    assert spans
    for level, gap in zip(stages["after"].levels, stages["after"].curves.gap, strict=True):
        inside = any(span.get_x() < level < span.get_x() + span.get_width() for span in spans)
        assert inside == (gap < 0)


def test_words_name_stages_sides_and_numbers(stages: Stages):
    words = _texts(reward_quantiles_figure(stages, title="Held-out snippets"))
    certificate = stages["after"]
    assert "Held-out snippets" in words
    for expected in ("before", "after", "preferred", "other", "dominance undefined: all rewards coincide"):
        assert expected in words
    assert f"violation ratio {certificate.violation_ratio:.3f}" in words
    assert f"{100 * certificate.violated_share:.0f} % of levels violated" in words
    assert "n = 300 preferred, 200 other" in words
    assert "n = 9 pairs" in words
    assert not re.search(r"\bnan\b", words.lower())


@pytest.mark.parametrize(
    ("share", "words"), [(0.004, "under 1 %"), (0.15, "15 %"), (0.997, "over 99 %"), (1.0, "100 %")]
)
def test_shares_are_not_rounded_to_none_or_all(share: float, words: str):
    certificate = dominance_certificate([0.0, 1.0], [0.5, 2.0], paired=True, resamples=39)
    figure = reward_quantiles_figure({"stage": replace(certificate, violated_share=share)})
    assert f"{words} of levels violated" in _texts(figure)


def test_stages_share_their_axes(stages: Stages):
    axes = reward_quantiles_figure(stages).axes
    assert axes[0].get_ylim() == axes[2].get_ylim()
    assert axes[1].get_ylim() == axes[3].get_ylim()
    low, high = axes[2].get_ylim()
    assert low < min(stages["after"].curves.v + stages["after"].curves.u)
    assert high > max(stages["after"].curves.u)


def test_text_stays_inside_the_picture_and_labels_apart(stages: Stages):
    for chosen in (stages, {"only": stages["after"]}, {"zero": stages["before"]}):
        figure = reward_quantiles_figure(chosen)
        assert isinstance(figure.canvas, FigureCanvasAgg)
        renderer = figure.canvas.get_renderer()
        figure.draw(renderer)
        width, height = figure.canvas.get_width_height()
        for text in [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]:
            box = text.get_window_extent(renderer)
            assert box.x0 >= 0, text.get_text()
            assert box.y0 >= 0, text.get_text()
            assert box.x1 <= width, text.get_text()
            assert box.y1 <= height, text.get_text()
        for axes in figure.axes[0::2]:
            boxes = [text.get_window_extent(renderer) for text in axes.texts]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_sides_differ_by_line_style_as_well_as_by_colour(stages: Stages):
    upper = reward_quantiles_figure(stages).axes[2]
    (preferred,), (other,) = _artists(upper, "preferred"), _artists(upper, "other")
    assert (to_hex(preferred.get_color()), to_hex(other.get_color())) == ("#0072b2", "#d55e00")
    assert preferred.get_linestyle() != other.get_linestyle()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_file_is_a_png_that_grows_with_the_stages(stages: Stages, count: int, tmp_path: Path):
    chosen = {f"step {i}": stages["after"] for i in range(count)}
    path = plot_reward_quantiles(chosen, tmp_path / "plots" / "quantiles.png")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert 1000 <= height <= 2000
    assert 1000 <= width <= 1500 * count
    assert len(content) < 1_000_000


def test_no_global_state_is_touched(stages: Stages, tmp_path: Path):
    # Asking an RcParams for its backend imports pyplot, hence the items of the plain dict.
    before = dict(dict.items(mpl.rcParams))
    plot_reward_quantiles(stages, tmp_path / "quantiles.png")
    assert dict(dict.items(mpl.rcParams)) == before
    assert not Gcf.figs


def test_misuse_is_refused(stages: Stages, tmp_path: Path):
    with pytest.raises(DataError, match="at least one certificate"):
        plot_reward_quantiles({}, tmp_path / "x.png")
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        plot_reward_quantiles(stages, tmp_path / "taken" / "x.png")
