"""Evaluation: what held-out preferences say about an aligned model, and how surely."""

from __future__ import annotations

from distal.evaluation.certificate import LEVELS, CertificateOptions, dominance_certificate
from distal.evaluation.dominance import (
    certificate_from_scores,
    certify_rows,
    evaluate_dominance,
    score_rows,
)
from distal.evaluation.parts import (
    LengthBalance,
    RatioTest,
    RunComparison,
    SecondOrder,
    Slice,
    Slices,
)
from distal.evaluation.records import (
    SCHEMA,
    SET_SCHEMA,
    CertificateSet,
    DominanceCertificate,
    LawComparison,
    LengthControl,
    QuantileCurves,
)
from distal.evaluation.relative import compare_runs
from distal.evaluation.scored import ScoredRows
from distal.evaluation.verdict import FEWEST_SAMPLES, Decision, format_interval, format_ratio

__all__ = [
    "FEWEST_SAMPLES",
    "LEVELS",
    "SCHEMA",
    "SET_SCHEMA",
    "CertificateOptions",
    "CertificateSet",
    "Decision",
    "DominanceCertificate",
    "LawComparison",
    "LengthBalance",
    "LengthControl",
    "QuantileCurves",
    "RatioTest",
    "RunComparison",
    "ScoredRows",
    "SecondOrder",
    "Slice",
    "Slices",
    "certificate_from_scores",
    "certify_rows",
    "compare_runs",
    "dominance_certificate",
    "evaluate_dominance",
    "format_interval",
    "format_ratio",
    "score_rows",
]
