"""Scoring: a model and token rows in, summed completion log-probabilities out."""

from __future__ import annotations

from distal.caching import ScoreCache, default_cache_dir
from distal.scoring.batching import cut_by_count, cut_by_tokens, pack_by_tokens
from distal.scoring.cached import CachedScores
from distal.scoring.choosing import LAYOUT_NAMES, LayoutName, choose_layout, why_padded
from distal.scoring.dataset import DatasetRows, Passes, autocast, score_dataset, score_row_list
from distal.scoring.fingerprint import weights_fingerprint
from distal.scoring.laid_out import LaidOutBatch
from distal.scoring.layouts import PACKED, PADDED, PREFIX_SHARED, Layout, PrefixShared, pad_rows
from distal.scoring.logprobs import mean_token_entropy, score_rows, token_log_probs, unwrap, weighted_score
from distal.scoring.precision import compute_dtype, score_noise
from distal.scoring.reference import (
    AdapterOff,
    AdapterSnapshot,
    FrozenModel,
    InitialPolicy,
    Reference,
    cached_scores,
    choose_reference,
    reference_scores,
)
from distal.scoring.sharing import collective_device, in_parallel, rank_and_world

__all__ = [
    "LAYOUT_NAMES",
    "PACKED",
    "PADDED",
    "PREFIX_SHARED",
    "AdapterOff",
    "AdapterSnapshot",
    "CachedScores",
    "DatasetRows",
    "FrozenModel",
    "InitialPolicy",
    "LaidOutBatch",
    "Layout",
    "LayoutName",
    "Passes",
    "PrefixShared",
    "Reference",
    "ScoreCache",
    "autocast",
    "cached_scores",
    "choose_layout",
    "choose_reference",
    "collective_device",
    "compute_dtype",
    "cut_by_count",
    "cut_by_tokens",
    "default_cache_dir",
    "in_parallel",
    "mean_token_entropy",
    "pack_by_tokens",
    "pad_rows",
    "rank_and_world",
    "reference_scores",
    "score_dataset",
    "score_noise",
    "score_row_list",
    "score_rows",
    "token_log_probs",
    "unwrap",
    "weighted_score",
    "weights_fingerprint",
    "why_padded",
]
