"""Evaluating the dominance of any models over any reference, on any preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from distal.caching import default_cache_dir
from distal.data import TokenizedPreferences
from distal.data.attributes import unit_attributes
from distal.errors import ConfigError, OutputError
from distal.evaluation import (
    CertificateSet,
    DominanceCertificate,
    ScoredRows,
    certify_rows,
    compare_runs,
    score_rows,
)
from distal.evaluation.comparing import check_options
from distal.evaluation.records import json_text
from distal.evaluation.scored import BUILT_IN, attribute_name
from distal.report.figures import plot_reward_quantiles
from distal.scoring.loading import is_adapter
from distal.scoring.reference import AdapterOff
from distal.workflow.preparation import check_enough
from distal.workflow.scoring import ScoringOptions, scored_data, scored_model, scoring_tokenizer

__all__ = ["CertifyOptions", "certificate_json", "certify", "named_models"]


@dataclass(frozen=True, kw_only=True)
class CertifyOptions(ScoringOptions):
    """What `distal evaluate dominance` can be told.

    Attributes:
        models: name -> local folder or hub id of a model or adapter to evaluate.
        reference: model that rewards are measured against; None for an adapter's own base model.
        order: 2 adds second order.
        threshold: largest violation ratio that counts as almost dominance.
        slice_by: what the data is cut by: `completion_length`, `prompt_length`, `turns`, or a column.
        length_controlled: whether to add the comparison at equal completion lengths.
        compare: whether to compare every model with every other.
        by_prompt: whether rows of one prompt are resampled together.
        confidence: of the intervals.
        resamples: bootstrap resamples, at least `2 / (1 - confidence) - 1`.
        seed: of the resamples.
        output: folder for `dominance.json` and `reward_quantiles.png`.
        plot: PNG file for the figure.
        overwrite: whether files of those names may be replaced.
    """

    models: Mapping[str, str]
    reference: str | None = None
    order: int = 1
    threshold: float = 0.25
    slice_by: tuple[str, ...] = ()
    length_controlled: bool = False
    compare: bool = False
    by_prompt: bool = True
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(
            confidence=self.confidence,
            resamples=self.resamples,
            seed=self.seed,
            threshold=self.threshold,
            order=self.order,
        )
        for name in self.slice_by:
            attribute_name(name)
        if self.compare and len(self.models) < 2:
            raise ConfigError("compare needs at least two models: --model NAME=PATH --model NAME=PATH.")
        if self.output is None and self.plot is None and self.overwrite:
            raise ConfigError("overwrite has no effect without output or plot; leave it out.")

    @property
    def certificate_path(self) -> Path | None:
        """Where the certificate goes, if anywhere."""
        return None if self.output is None else self.output / "dominance.json"

    @property
    def figure_paths(self) -> list[Path]:
        """Where the figure goes."""
        inside = [] if self.output is None else [self.output / "reward_quantiles.png"]
        return inside + ([] if self.plot is None else [self.plot])


def named_models(words: Sequence[str]) -> dict[str, str]:
    """Read `NAME=PATH`, or a path alone, which is called by its last part.

    Raises:
        ConfigError: no model, or two of one name.

    Examples:
        >>> named_models(["aot=runs/aot/final", "runs/dpo"])
        {'aot': 'runs/aot/final', 'dpo': 'runs/dpo'}
    """
    models: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        # A path may hold the sign itself.
        if not equals or not name or not path or Path(word).exists():
            name, path = Path(word).name or word, word
        if name in models:
            raise ConfigError(
                f"model: two are called {name} ({models[name]} and {path}); name them: --model NAME=PATH"
            )
        models[name] = path
    if not models:
        raise ConfigError("model is missing; give --model PATH")
    return models


def certify(
    options: CertifyOptions, *, tell: Callable[[str], None] = lambda line: None
) -> DominanceCertificate | CertificateSet:
    """Scores the data under every model and its reference, and states whether preferred rewards dominate.

    Args:
        options: models, data, and where results go.
        tell: called with each line of the data report.

    Returns:
        The certificate of the one model, or those of all with the comparisons asked for; written to the files that were
        asked for.

    Raises:
        DistalError: anything that the user can mend.
    """
    _refuse_existing(options)
    scored: dict[str, ScoredRows] = {}
    known: _Known = {}
    tokenizers = {name: _tokenizer(options, path) for name, path in options.models.items()}
    for name, path in options.models.items():
        tokenizer = tokenizers[name]
        data, attributes = _data(options, tokenizer, tell if not scored else lambda line: None)
        check_enough(data, options.data)  # before models are loaded and score everything
        if scored and data.fingerprint != next(iter(scored.values())).fingerprint:
            raise ConfigError(
                f"the models {next(iter(scored))} and {name} have different tokenizers, so that their scores are sums "
                "over different tokens. Compare models of one tokenizer, or evaluate them one by one; --tokenizer "
                "names one for all where they do share it."
            )
        scored[name] = _score(options, path, data, tokenizer, attributes, known)
    asked: dict[str, Any] = {
        "confidence": options.confidence,
        "resamples": options.resamples,
        "seed": options.seed,
        "threshold": options.threshold,
        "by_prompt": options.by_prompt,
    }
    certificates = {
        name: certify_rows(
            rows,
            order=cast(Any, options.order),
            slice_by=options.slice_by,
            length_controlled=options.length_controlled,
            **asked,
        )
        for name, rows in scored.items()
    }
    result = next(iter(certificates.values()))
    if len(certificates) > 1:
        comparisons = compare_runs(scored, **asked) if options.compare else ()
        result = CertificateSet(certificates=certificates, comparisons=comparisons)
    if options.certificate_path is not None:
        result.save(options.certificate_path)
    for figure in options.figure_paths:
        plot_reward_quantiles(certificates, figure)
    return result


_Known = dict[str, Any]
"""Reference scores that are known already, by the name of the reference."""


def _tokenizer(options: CertifyOptions, path: str) -> PreTrainedTokenizerBase:
    """A model's tokenizer; refuses a model that there is nothing to measure against."""
    tokenizer = scoring_tokenizer(path, options)
    if options.reference is None and not is_adapter(path):
        raise ConfigError(
            f"reference is missing: rewards of {path} are measured against another model, usually "
            "the one it was trained from; give --reference. (Only adapters name their base themselves.)"
        )
    return tokenizer


def _data(
    options: CertifyOptions, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], None]
) -> tuple[TokenizedPreferences, dict[str, Any]]:
    """The data as a model's tokenizer reads it, and the attributes that slices need."""
    data = scored_data(options, tokenizer, tell)
    names = [attribute_name(name) for name in options.slice_by]
    columns = [name for name in dict.fromkeys(names) if name not in BUILT_IN]
    if not columns:
        return data, {}
    found = unit_attributes(data, options.data, columns, reading=options.reading, split=options.split)
    return data, found


def _score(
    options: CertifyOptions,
    path: str,
    data: TokenizedPreferences,
    tokenizer: PreTrainedTokenizerBase,
    attributes: dict[str, Any],
    known: _Known,
) -> ScoredRows:
    """Scores of one model; a reference that several share is scored once."""
    common = known.get("reference")
    model, reference = _models(options, path, tokenizer, with_reference=common is None)
    rows = score_rows(
        model,
        reference,
        data if common is None else data.with_reference_scores(common),
        tokens_per_batch=options.tokens_per_batch,
        layout=options.layout,
        progress=options.progress,
        attributes=attributes,
        cache_dir=default_cache_dir(),
    )
    if options.reference is not None:
        known["reference"] = rows.reference
    return rows


def certificate_json(certificate: DominanceCertificate | CertificateSet) -> str:
    """The result as one JSON document."""
    return json_text(certificate.to_dict()).rstrip("\n")


def _refuse_existing(options: CertifyOptions) -> None:
    """Refuses to replace files, before anything is computed."""
    paths = [path for path in (options.certificate_path, *options.figure_paths) if path is not None]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not options.overwrite:
        raise OutputError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already; nothing was "
            "touched. Name another place, or add --overwrite."
        )


def _models(
    options: CertifyOptions, path: str, tokenizer: PreTrainedTokenizerBase, *, with_reference: bool
) -> tuple[Any, Any]:
    """The model and its reference on the best device."""
    model = scored_model(path, options, tokenizer)
    if options.reference is None:
        return model, AdapterOff(model)
    return model, scored_model(options.reference, options, tokenizer) if with_reference else None
