"""Preference data: reading, checking, tokenising, sampling and collating.

`prepare_dataset` takes what users have (files, `datasets` folders, hub ids, lists of dictionaries) to a
`TokenizedPreferences`, whose `report` accounts for every row; `OptimizerBatchSampler` says which units make
up each optimizer batch, the same for every number of devices; `collate_units` hands them on as rows of
tokens.
"""

from __future__ import annotations

from distal.data.collation import collate_units
from distal.data.folders import default_cache_dir
from distal.data.formats import FORMATS, Format
from distal.data.grading import GradeOptions
from distal.data.loading import DataLike
from distal.data.preferences import TokenizedPreferences
from distal.data.preparation import OnBadRows, prepare_dataset
from distal.data.reading import PreferenceSource, ReadOptions, open_preferences, parse_map
from distal.data.report import DataReport, RowCount
from distal.data.sampling import OptimizerBatchSampler
from distal.data.truncation import Truncation

__all__ = [
    "FORMATS",
    "DataLike",
    "DataReport",
    "Format",
    "GradeOptions",
    "OnBadRows",
    "OptimizerBatchSampler",
    "PreferenceSource",
    "ReadOptions",
    "RowCount",
    "TokenizedPreferences",
    "Truncation",
    "collate_units",
    "default_cache_dir",
    "open_preferences",
    "parse_map",
    "prepare_dataset",
]
