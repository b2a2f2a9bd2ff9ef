"""Evaluating the dominance of any model over any reference, on any preferences."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from distal.errors import ConfigError, OutputError
from distal.evaluation import DominanceCertificate, evaluate_dominance
from distal.report.figures import plot_reward_quantiles
from distal.scoring.loading import is_adapter
from distal.scoring.reference import AdapterOff
from distal.workflow.scoring import ScoringOptions, scored_data, scored_model, scoring_tokenizer

__all__ = ["CertifyOptions", "certify"]


@dataclass(frozen=True, kw_only=True)
class CertifyOptions(ScoringOptions):
    """What `distal evaluate dominance` can be told.

    Attributes:
        reference: model that rewards are measured against; None for an adapter's own base model.
        confidence: of the intervals.
        resamples: bootstrap resamples.
        seed: of the resamples.
        output: folder for `dominance.json` and `reward_quantiles.png`.
        plot: PNG file for the figure.
        overwrite: whether files of those names may be replaced.
    """

    reference: str | None = None
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resamples < 1:
            raise ConfigError(f"resamples must be at least 1; got {self.resamples}.")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie between 0 and 1; got {self.confidence}.")
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


def certify(
    options: CertifyOptions, *, tell: Callable[[str], None] = lambda line: None
) -> DominanceCertificate:
    """Scores the data under both models and states whether preferred rewards dominate.

    Args:
        options: models, data, and where results go.
        tell: called with each line of the data report.

    Returns:
        The certificate, written to the files that were asked for.

    Raises:
        DistalError: anything that the user can mend.
    """
    _refuse_existing(options)
    tokenizer = scoring_tokenizer(options)
    data = scored_data(options, tokenizer, tell)
    model, reference = _models(options, tokenizer)
    certificate = evaluate_dominance(
        model,
        reference,
        data,
        tokens_per_batch=options.tokens_per_batch,
        layout=options.layout,
        progress=options.progress,
        confidence=options.confidence,
        resamples=options.resamples,
        seed=options.seed,
    )
    if options.certificate_path is not None:
        certificate.save(options.certificate_path)
    for path in options.figure_paths:
        plot_reward_quantiles({Path(options.model).name: certificate}, path)
    return certificate


def certificate_json(certificate: DominanceCertificate) -> str:
    """The certificate as one JSON document."""
    return json.dumps(certificate.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)


def _refuse_existing(options: CertifyOptions) -> None:
    """Refuses to replace files, before anything is computed."""
    paths = [path for path in (options.certificate_path, *options.figure_paths) if path is not None]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not options.overwrite:
        raise OutputError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already; nothing was "
            "touched. Name another place, or add --overwrite."
        )


def _models(options: CertifyOptions, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
    """The model and its reference on the best device."""
    if options.reference is None and not is_adapter(options.model):
        raise ConfigError(
            f"reference is missing: rewards of {options.model} are measured against another model, usually "
            "the one it was trained from; give --reference. (Only adapters name their base themselves.)"
        )
    model = scored_model(options.model, options, tokenizer)
    if options.reference is None:
        return model, AdapterOff(model)
    return model, scored_model(options.reference, options, tokenizer)
