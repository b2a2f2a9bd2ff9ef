"""Evaluating the dominance of any model over any reference, on any preferences."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from distal.data import ReadOptions, TokenizedPreferences, prepare_dataset
from distal.errors import ConfigError, OutputError
from distal.evaluation import DominanceCertificate, evaluate_dominance
from distal.report.figures import plot_reward_quantiles
from distal.scoring import LAYOUT_NAMES
from distal.scoring.loading import check_vocabulary, is_adapter, load_model, load_tokenizer
from distal.scoring.quantization import move
from distal.scoring.reference import AdapterOff
from distal.workflow.preparation import read_chat_template

__all__ = ["CertifyOptions", "certify"]


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """What `distal evaluate dominance` can be told.

    Attributes:
        model: local folder or hub id of the model or adapter to evaluate.
        data: preferences, paired or unpaired.
        reference: model that rewards are measured against; None for an adapter's own base model.
        split: split of a hub data set or `datasets` folder.
        tokenizer: None for the model's.
        chat_template: Jinja file; None for the tokenizer's.
        dtype: of the weights in memory, for both models.
        attn_implementation: None for transformers' choice.
        trust_remote_code: run Python code that comes with the models.
        max_length: longest prompt plus completion, tokens.
        truncation: drop, error, truncate_prompt or truncate_completion.
        on_bad_rows: drop or error.
        tokens_per_batch: tokens per forward pass, with padding; memory and speed only.
        layout: auto, padded, packed or prefix_shared; memory and speed only.
        confidence: of the intervals.
        resamples: bootstrap resamples.
        seed: of the resamples.
        output: folder for `dominance.json` and `reward_quantiles.png`.
        plot: PNG file for the figure.
        overwrite: whether files of those names may be replaced.
        progress: whether to show progress bars.
        reading: format of the data, names of its columns, how grades become preferences.
    """

    model: str
    data: str
    reference: str | None = None
    split: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    max_length: int = 1024
    truncation: str = "drop"
    on_bad_rows: str = "drop"
    tokens_per_batch: int = 8192
    layout: str = "auto"
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None
    plot: Path | None = None
    overwrite: bool = False
    progress: bool = True
    reading: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        least = {"max_length": 2, "tokens_per_batch": 1, "resamples": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} must be at least {value}; got {getattr(self, name)}.")
        if self.layout not in LAYOUT_NAMES:
            raise ConfigError(f"layout must be one of {', '.join(LAYOUT_NAMES)}; got {self.layout!r}.")
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
    tokenizer: Any = load_tokenizer(
        options.tokenizer or options.model, trust_remote_code=options.trust_remote_code
    )
    if options.chat_template is not None:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    data: TokenizedPreferences = prepare_dataset(
        options.data,
        tokenizer,
        max_length=options.max_length,
        on_bad_rows=cast(Any, options.on_bad_rows),  # checked there
        truncation=cast(Any, options.truncation),
        split=options.split,
        name="data",
        reading=options.reading,
    )
    for line in data.report.summary():
        tell(line)
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
    from accelerate import PartialState

    settings: dict[str, Any] = {
        "dtype": options.dtype,
        "attn_implementation": options.attn_implementation,
        "trust_remote_code": options.trust_remote_code,
    }
    if options.reference is None and not is_adapter(options.model):
        raise ConfigError(
            f"reference is missing: rewards of {options.model} are measured against another model, usually "
            "the one it was trained from; give --reference. (Only adapters name their base themselves.)"
        )
    device = PartialState().device
    model = move(load_model(options.model, **settings), device)
    check_vocabulary(model, tokenizer)
    if options.reference is None:
        return model, AdapterOff(model)
    reference = move(load_model(options.reference, **settings), device)
    check_vocabulary(reference, tokenizer)
    return model, reference
