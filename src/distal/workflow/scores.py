"""Scores of a model for every row of a data set, through the cache, into a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from distal.caching import check_writable, replacing
from distal.data import TokenizedPreferences
from distal.errors import ConfigError, OutputError
from distal.scoring import (
    CachedScores,
    FrozenModel,
    Passes,
    cached_scores,
    choose_layout,
    in_parallel,
    rank_and_world,
)
from distal.workflow.environment import package_versions
from distal.workflow.scoring import ScoringOptions, scored_data, scored_model, scoring_tokenizer

__all__ = ["ScoreOptions", "ScoreSummary", "score_file", "summary_json"]

TABLE_SCHEMA = "distal.score_table/1"
ROW_GROUP = 2**16
"""Rows of a row group of the file: what is in memory at once, and what a reader may skip."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ScoringOptions):
    """What `distal score` can be told.

    Attributes:
        model: local folder or hub id of a model or adapter.
        output: Parquet file to write.
        reference: model whose scores are subtracted; None for scores alone.
        revision: hub revision of the model.
        reference_revision: hub revision of the reference.
        per_token: add the mean score of a token.
        cache_dir: folder of the cache; None for `distal.caching.default_cache_dir()`.
        overwrite: whether a file of that name may be replaced.
    """

    model: str
    output: Path
    reference: str | None = None
    revision: str | None = None
    reference_revision: str | None = None
    per_token: bool = False
    cache_dir: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output.suffix.lower() != ".parquet":
            raise ConfigError(f"output: scores are written as Parquet; got {self.output}, name it *.parquet.")
        if self.reference is None and self.reference_revision is not None:
            raise ConfigError("reference_revision has no effect without reference; leave it out.")


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What was written.

    Attributes:
        output: the file.
        kind: paired or unpaired.
        units: pairs, or samples.
        rows: completions.
        computed: rows that were scored just now, under each of `model` and `reference`; the others were in the cache.
        means: for each side (`chosen` and `rejected`, or `liked` and `disliked`) the number of rows and the means of
            `score` and, against a reference, `reward`; nats.
        metadata: what the file carries.
    """

    output: Path
    kind: str
    units: int
    rows: int
    computed: Mapping[str, int]
    means: Mapping[str, Mapping[str, float]]
    metadata: Mapping[str, Any]

    def lines(self) -> list[str]:
        """What a person wants to know."""
        lines = [
            f"{role}: {count:,} of {self.rows:,} rows scored, {self.rows - count:,} from the cache"
            for role, count in self.computed.items()
        ]
        for side, values in self.means.items():
            shown = ", ".join(f"mean {name} {value:.4g}" for name, value in values.items() if name != "rows")
            lines.append(f"{side}: {values['rows']:,.0f} rows, {shown} nats")
        return lines


def score_file(
    options: ScoreOptions,
    *,
    tell: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda message: None,
) -> ScoreSummary | None:
    """Scores data under a model, and under a reference where there is one.

    What a run that was killed has scored is in the cache: the same call goes on from there.

    Args:
        options: model, data, and where the scores go.
        tell: called with each line of the data report.
        warn: called with a message for each damaged shard of the cache.

    Returns:
        What was written; None on all ranks but the first.

    Raises:
        DistalError: anything that the user can mend.
    """
    try:
        return _score_file(options, tell, warn)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; the shards that were scored are in the cache, and the same command goes on from there."
        ) from None


def _score_file(
    options: ScoreOptions, tell: Callable[[str], None], warn: Callable[[str], None]
) -> ScoreSummary | None:
    _refuse_output(options)
    tokenizer = scoring_tokenizer(options.model, options)
    data = scored_data(options, tokenizer, tell, cache_dir=options.cache_dir, both_labels=False)
    names = {"model": (options.model, options.revision)}
    if options.reference is not None:
        names["reference"] = (options.reference, options.reference_revision)
    models = {
        role: FrozenModel(scored_model(name, options, tokenizer, revision=revision))
        for role, (name, revision) in names.items()
    }
    layout = choose_layout(options.layout, [scored.model for scored in models.values()])
    found: dict[str, CachedScores] = {}
    for role, scored in models.items():
        how = Passes(
            tokens_per_batch=options.tokens_per_batch,
            layout=layout,
            progress=f"scoring under the {role}" if options.progress else None,
            shared=in_parallel(),
        )
        about = {"model": names[role][0], "revision": names[role][1] or "", "data": options.data}
        found[role] = cached_scores(scored, data, how, cache_dir=options.cache_dir, about=about, warn=warn)
    metadata = _metadata(options, tokenizer, data, layout.name, models, found)
    if rank_and_world()[0] != 0:
        return None
    _refuse_output(options)  # once more: scoring takes its time
    means = _write(options, data, {role: known.scores for role, known in found.items()}, metadata)
    computed = {role: known.computed for role, known in found.items()}
    return ScoreSummary(options.output, data.kind, len(data), data.n_rows, computed, means, metadata)


def summary_json(summary: ScoreSummary) -> str:
    """The summary as one JSON document."""
    content = {
        "output": str(summary.output),
        "kind": summary.kind,
        "units": summary.units,
        "rows": summary.rows,
        "computed": dict(summary.computed),
        "means": {side: dict(values) for side, values in summary.means.items()},
        **summary.metadata,
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


def _refuse_output(options: ScoreOptions) -> None:
    """Finds out before hours of scoring whether the file may and can be written."""
    output = options.output
    if output.is_dir():
        raise OutputError(f"{output} is a folder; name a file in it.")
    if output.exists() and Path(options.data).exists() and output.samefile(options.data):
        raise OutputError(f"{output} is the data itself; name another file to write.")
    if output.exists() and not options.overwrite:
        raise OutputError(f"{output} exists already; nothing was touched. Name another, or add --overwrite.")
    if rank_and_world()[0] == 0:
        check_writable(output)


def _metadata(
    options: ScoreOptions,
    tokenizer: PreTrainedTokenizerBase,
    data: TokenizedPreferences,
    layout: str,
    models: Mapping[str, FrozenModel],
    found: Mapping[str, CachedScores],
) -> dict[str, Any]:
    """What a reader of the file must know; the same for the same scores, whenever they were computed."""
    names = {"model": options.model, "reference": options.reference}
    revisions = {"model": options.revision, "reference": options.reference_revision}
    scored = {
        role: {
            "name": names[role],
            "revision": revisions[role],
            "commit": getattr(getattr(kept.model, "config", None), "_commit_hash", None),
            "fingerprint": kept.fingerprint(),
            "cache_key": found[role].key,
        }
        for role, kept in models.items()
    }
    settings = ("dtype", "attn_implementation", "max_length", "truncation", "on_bad_rows", "tokens_per_batch")
    return {
        "schema": TABLE_SCHEMA,
        "unit": "nats",
        **scored,
        "tokenizer": options.tokenizer or options.model,
        "chat_template": options.chat_template,
        "vocabulary": len(tokenizer),
        "data": {"name": options.data, "split": options.split, "fingerprint": data.fingerprint},
        "options": {**{name: getattr(options, name) for name in settings}, "layout": layout},
        "versions": package_versions(),
    }


def _write(
    options: ScoreOptions,
    data: TokenizedPreferences,
    scores: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> dict[str, dict[str, float]]:
    """Writes the file, one row group after another; the means of each side."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(options, data, scores["model"].dtype).with_metadata({"distal": json.dumps(metadata)})
    sides = ("chosen", "rejected") if data.kind == "paired" else ("liked", "disliked")
    totals = {side: np.zeros(3) for side in sides}
    with replacing(options.output) as path, pq.ParquetWriter(str(path), schema) as writer:
        for columns, desirable in _groups(options, data, scores):
            writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema))
            for side, taken in zip(sides, (desirable, ~desirable), strict=True):
                reward = columns["reward"][taken].sum(dtype=np.float64) if "reward" in columns else 0.0
                totals[side] += [taken.sum(), columns["score"][taken].sum(dtype=np.float64), reward]
    means: dict[str, dict[str, float]] = {}
    for side, (count, score, reward) in totals.items():
        if count:
            means[side] = {"rows": int(count), "score": score / count}
            if "reference" in scores:
                means[side]["reward"] = reward / count
    return means


def _groups(
    options: ScoreOptions, data: TokenizedPreferences, scores: Mapping[str, np.ndarray]
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Columns of each row group, and which of its rows are chosen or liked."""
    per_unit = data.n_rows // len(data)
    for first in range(0, len(data), ROW_GROUP // per_unit):
        units = range(first, min(first + ROW_GROUP // per_unit, len(data)))
        facts = [
            (row.source_row, unit, row.scored_length, row.desirable) for unit in units for row in data[unit]
        ]
        source, unit, tokens, desirable = (np.array(column) for column in zip(*facts, strict=True))
        held = slice(units.start * per_unit, units.stop * per_unit)
        score = scores["model"][held]
        columns = {
            "row": source,
            "unit": unit,
            "side": np.where(desirable, "chosen", "rejected"),
            "label": desirable,
            "completion_tokens": tokens.astype(np.int32),
            "score": score,
        }
        if options.per_token:
            columns["score_per_token"] = (score / tokens).astype(score.dtype)
        if "reference" in scores:
            reference = scores["reference"][held]
            columns["reference_score"] = reference
            columns["reward"] = (score.astype(np.float64) - reference).astype(score.dtype)
        yield columns, desirable


def _schema(options: ScoreOptions, data: TokenizedPreferences, dtype: np.dtype[Any]) -> Any:
    """Columns of the file."""
    import pyarrow as pa

    nats = pa.from_numpy_dtype(dtype)
    fields = [
        ("row", pa.int64()),
        ("unit", pa.int64()),
        ("side", pa.string()) if data.kind == "paired" else ("label", pa.bool_()),
        ("completion_tokens", pa.int32()),
        ("score", nats),
    ]
    if options.per_token:
        fields.append(("score_per_token", nats))
    if options.reference is not None:
        fields += [("reference_score", nats), ("reward", nats)]
    return pa.schema(fields)
