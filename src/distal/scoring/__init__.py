"""Scoring: a model and token rows in, summed completion log-probabilities out."""

from __future__ import annotations

from distal.scoring.batching import cut_by_count, cut_by_tokens
from distal.scoring.cache import ScoreCache, default_cache_dir
from distal.scoring.dataset import autocast, score_dataset, score_row_list
from distal.scoring.fingerprint import weights_fingerprint
from distal.scoring.layouts import PaddedBatch, pad_rows
from distal.scoring.logprobs import mean_token_entropy, score_rows, token_log_probs, unwrap
from distal.scoring.precision import compute_dtype, score_noise
from distal.scoring.reference import (
    AdapterOff,
    AdapterSnapshot,
    FrozenModel,
    InitialPolicy,
    Reference,
    choose_reference,
    reference_scores,
)

__all__ = [
    "AdapterOff",
    "AdapterSnapshot",
    "FrozenModel",
    "InitialPolicy",
    "PaddedBatch",
    "Reference",
    "ScoreCache",
    "autocast",
    "choose_reference",
    "compute_dtype",
    "cut_by_count",
    "cut_by_tokens",
    "default_cache_dir",
    "mean_token_entropy",
    "pad_rows",
    "reference_scores",
    "score_dataset",
    "score_noise",
    "score_row_list",
    "score_rows",
    "token_log_probs",
    "unwrap",
    "weights_fingerprint",
]
