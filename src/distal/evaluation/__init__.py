"""Evaluation: what held-out preferences say about an aligned model, and how surely."""

from __future__ import annotations

from distal.evaluation.certificate import LEVELS, CertificateOptions, dominance_certificate
from distal.evaluation.dominance import certificate_from_scores, evaluate_dominance
from distal.evaluation.records import SCHEMA, DominanceCertificate, LawComparison, QuantileCurves
from distal.evaluation.verdict import FEWEST_SAMPLES, Decision, format_interval, format_ratio

__all__ = [
    "FEWEST_SAMPLES",
    "LEVELS",
    "SCHEMA",
    "CertificateOptions",
    "Decision",
    "DominanceCertificate",
    "LawComparison",
    "QuantileCurves",
    "certificate_from_scores",
    "dominance_certificate",
    "evaluate_dominance",
    "format_interval",
    "format_ratio",
]
