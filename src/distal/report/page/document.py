"""The page as one HTML document that needs nothing else: no network, no other file, no style or script from data.

Three rules keep it harmless whatever the texts in it are. Templates escape every value. Generated texts, of which there
are many, stand in a block of JSON that nothing in them can end, and the script sets them as text only. And a content
security policy lets the browser load nothing, and run nothing but the scripts whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import distal
from distal.evaluation import format_ratio
from distal.report.citation import BIBTEX
from distal.report.page.generations import side_by_side
from distal.report.page.run import Run
from distal.report.page.views import (
    certificate,
    data,
    evaluations,
    parts,
    rewards,
    samples,
    settings,
    training,
)
from distal.report.page.wording import EXPLANATION, caution, comparability, headline
from distal.report.text import printable

__all__ = ["page_html"]

_PACKAGE = "distal.report.page"
_PER_CENT = re.compile(r"(?<=\d) %")
"""A number and its sign, which stay on one line."""


def page_html(runs: Sequence[Run], *, title: str | None = None, made: str) -> str:
    """The page about one run, or about several side by side.

    Args:
        runs: in the order of their columns; their names differ.
        title: of the page; None for the names of the runs.
        made: when, in words.

    Returns:
        An HTML document.
    """
    title = title or _in_words([run.name for run in runs])
    table = side_by_side([(run.name, run.samples) for run in runs if run.samples is not None])
    view = None if table is None else samples.sample_view(table)
    plots = _plots(runs)
    drawn = [plot for group in plots.values() for plot in group]
    scripts = [_asset("theme.js")]
    if drawn:
        scripts += [_plotly(), _asset("plots.js")]
    if view is not None:
        scripts.append(_asset("samples.js"))
    context: dict[str, Any] = {
        "title": title,
        "made": made,
        "version": distal.__version__,
        "runs": runs,
        "several": len(runs) > 1,
        "style": Markup(_asset("page.css")),
        "policy": _policy(scripts),
        "scripts": [Markup(script) for script in scripts],
        "islands": {
            "plot-data": Markup(samples.island_json({plot.id: plot.spec() for plot in drawn})),
            **({} if view is None else {"sample-data": Markup(samples.island_json(view.data))}),
        },
        "plots": plots,
        "samples": view,
        "bibtex": BIBTEX,
        **_sections(runs),
    }
    return _environment().get_template("page.html").render(context)


def _in_words(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _plots(runs: Sequence[Run]) -> dict[str, list[parts.Plot]]:
    gap = rewards.gap_plot(runs)
    return {
        "rewards": [*rewards.quantile_plots(runs), *([] if gap is None else [gap])],
        "training": training.training_plots(runs),
    }


def _sections(runs: Sequence[Run]) -> dict[str, Any]:
    """What the templates of the sections need beside the runs."""
    return {
        "headlines": {run.name: headline(run.certificate) for run in runs},
        "explanation": EXPLANATION,
        "cautions": {run.name: [] if run.certificate is None else caution(run.certificate) for run in runs},
        "comparability": comparability(runs),
        "tested": any(one.comparisons for run in runs for one in run.certificates),
        "overview": settings.overview_table(runs),
        "differences": settings.differences_table(runs),
        "certificate_table": certificate.certificate_table(runs),
        "part_tables": {run.name: certificate.part_tables(run) for run in runs},
        "win_rates": evaluations.win_rate_table(runs),
        "win_rate_notes": evaluations.win_rate_notes(runs),
        "benchmarks": evaluations.benchmark_table(runs),
        "benchmark_notes": evaluations.benchmark_notes(runs),
        "training_notes": training.training_notes(runs),
        "progress": {run.name: samples.progress_table(run) for run in runs},
        "health_words": {run.name: training.health_words(run) for run in runs},
        "health_tables": {run.name: training.health_tables(run) for run in runs},
        "data_tables": {run.name: data.data_tables(run) for run in runs},
        "config_tables": {run.name: settings.config_table(run) for run in runs},
        "facts_tables": {run.name: settings.facts_table(run) for run in runs},
        "versions": settings.versions_table(runs),
        "missing": {
            "rewards": rewards.rewards_missing(runs),
            "evaluations": evaluations.evaluations_missing(runs),
            "samples": samples.samples_missing(runs),
            "training": training.training_missing(runs),
            "health": training.health_missing(runs),
            "data": data.data_missing(runs),
            "configuration": settings.config_missing(runs),
        },
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    environment.filters["ratio"] = format_ratio
    return environment


def _safe(value: object) -> object:
    """Texts with their control characters written out, and nothing for None; escaping follows."""
    if value is None:
        return ""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _PER_CENT.sub("\u00a0%", printable(value))


@cache
def _asset(name: str) -> str:
    return (files(_PACKAGE) / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy under which nothing is loaded and nothing but these scripts runs."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts
    )
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": hashes,
        "style-src": "'unsafe-inline'",  # the drawing library writes its styles itself
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
