"""The terminal's table, as it is read."""

from __future__ import annotations

import io
import re

import numpy as np
from rich.console import Console

from distal.evaluation import DominanceCertificate, dominance_certificate
from distal.report import certificate_table


def _printed(certificate: DominanceCertificate, width: int = 120):
    written = io.StringIO()
    console = Console(file=written, width=width, color_system=None)
    console.print(certificate_table(certificate, title="Held-out pairs"))
    return written.getvalue()


def _row(text: str, label: str):
    """Cells of the first row that begins with a label."""
    line = next(line for line in text.splitlines() if label in line)
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_numbers_and_verdict_of_pairs():
    u, v = np.linspace(-1, 1, 100), np.linspace(-1, 1, 100) - 0.5
    v[0] = u[0]
    certificate = dominance_certificate(u, v, paired=True, resamples=50, margins=(u, v))
    text = _printed(certificate)
    assert "Held-out pairs" in text
    assert _row(text, "samples")[1] == "100 pairs"
    assert _row(text, "violation ratio")[1] == "0"
    assert _row(text, "share of pairs ranked right")[1] == "0.995 (1 ties)"
    assert _row(text, "mean gap")[1] == "+0.495"
    assert _row(text, "50 % quantiles")[1] == "-0.010, -0.510"
    assert "95 % interval" in text
    assert "policy against reference margins" in text
    assert "".join(certificate.verdict.split()) in "".join(text.split())


def test_undefined_is_written_out():
    text = _printed(dominance_certificate(np.zeros(4), np.zeros(6), paired=False, resamples=50))
    assert _row(text, "violation ratio")[1:] == ["undefined", "undefined"]
    assert _row(text, "samples")[1] == "4 preferred, 6 other"
    assert "ranked right" not in text
    assert "Dominance undefined: all rewards coincide" in text
    assert "Note: only 4 samples" in text
    assert not re.search(r"\bnan\b", text.lower())


def test_a_narrow_terminal_loses_no_number():
    u, v = np.arange(30.0) - 1234, np.arange(30.0) - 5678
    wide, narrow = (_printed(dominance_certificate(u, v, paired=True, resamples=50), w) for w in (120, 80))
    for label in ("mean gap", "5 % quantiles", "95 % quantiles", "share of pairs ranked right"):
        assert _row(narrow, label) == _row(wide, label)
