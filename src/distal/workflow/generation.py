"""Answers of any model to any prompts, from options to files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distal.data import ReadOptions
from distal.errors import ConfigError, DataError, OutputError
from distal.evaluation.budget import Budget, BudgetLimits
from distal.evaluation.endpoint import ChatEndpoint, EndpointOptions
from distal.evaluation.generation import (
    Engine,
    GenerationRun,
    PromptSet,
    SamplingOptions,
    ServerEngine,
    VllmEngine,
    generate_outputs,
    read_prompts,
)
from distal.evaluation.generation.outputs import settings_path
from distal.workflow.environment import package_versions
from distal.workflow.preparation import read_chat_template

__all__ = ["ENGINES", "GenerateOptions", "generate"]

ENGINES = ("transformers", "vllm", "server")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What `distal evaluate generate` can be told.

    Attributes:
        model: local folder or hub id of a model or adapter; with `engine` server the name that the server knows.
        prompts: a file, folder or hub id with prompts or preferences.
        output: JSON file for the answers.
        engine: transformers, vllm or server.
        base_url: address of the server.
        api_key_env: environment variable with the server's key.
        name: name of the model in the file; None for the last part of `model`.
        prompt_column: column of the prompts, where it has another name.
        split: split of a hub data set or `datasets` folder.
        limit: most prompts, the first ones.
        on_bad_rows: drop or error.
        on_long_prompts: drop or error: prompts that leave the model no room for `max_new_tokens`.
        sampling: how answers are drawn.
        batch_size: prompts per batch; memory and speed only.
        concurrency: requests at once.
        timeout: seconds for one answer of the server.
        retries: how often a request is repeated.
        budget: limits for the server.
        tokenizer: None for the model's.
        chat_template: Jinja file; None for the tokenizer's.
        dtype: of the weights in memory.
        attn_implementation: None for transformers' choice.
        trust_remote_code: run Python code that comes with the model.
        overwrite: whether files of those names may be replaced.
        progress: whether to show a progress bar.
        reading: format of the data, names of its columns, whether plain strings become messages.
    """

    model: str
    prompts: str
    output: Path
    engine: str = "transformers"
    base_url: str | None = None
    api_key_env: str | None = None
    name: str | None = None
    prompt_column: str | None = None
    split: str | None = None
    limit: int | None = None
    on_bad_rows: str = "drop"
    on_long_prompts: str = "error"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    batch_size: int = 8
    concurrency: int = 8
    timeout: float = 300.0
    retries: int = 5
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    tokenizer: str | None = None
    chat_template: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False
    progress: bool = True
    reading: ReadOptions = ReadOptions()

    def __post_init__(self) -> None:
        choices = {"engine": ENGINES, "on_bad_rows": ("drop", "error"), "on_long_prompts": ("drop", "error")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}.")
        served = self.engine == "server"
        if served and self.base_url is None:
            raise ConfigError("engine=server needs the server's address: give --base-url.")
        idle = {
            "base_url": not served and self.base_url is not None,
            "api_key_env": not served and self.api_key_env is not None,
            "tokenizer": served and self.tokenizer is not None,
            "chat_template": served and self.chat_template is not None,
            "trust_remote_code": served and self.trust_remote_code,
        }
        wrong = [name for name, given in idle.items() if given]
        if wrong:
            raise ConfigError(f"{', '.join(wrong)} has no effect with engine={self.engine}; leave it out.")
        if self.output.suffix.lower() != ".json":
            raise ConfigError(f"output must be a file that ends in .json; got {self.output}.")

    @property
    def generator(self) -> str:
        """Name of the model in the file of answers."""
        return self.name or Path(self.model).name or self.model


def generate(options: GenerateOptions, *, tell: Callable[[str], None] = lambda line: None) -> GenerationRun:
    """Answers the prompts and writes AlpacaEval's file with its settings beside it.

    Args:
        options: model, prompts, and where answers go.
        tell: called with remarks for people.

    Raises:
        DistalError: anything that the user can mend; the answers so far are kept.
    """
    _refuse_existing(options)
    prompts = read_prompts(
        options.prompts,
        column=options.prompt_column,
        split=options.split,
        reading=options.reading,
        limit=options.limit,
        strict=options.on_bad_rows == "error",
    )
    for line in prompts.summary():
        tell(line)
    engine, prompts, about = _engine(options, prompts, tell)
    run = generate_outputs(
        prompts,
        engine,
        options.sampling,
        options.output,
        generator=options.generator,
        about={"reproducible": _claim(options), **about, "versions": package_versions()},
        progress=options.progress,
        tell=tell,
    )
    if run.empty:
        tell(f"{run.empty:,} of {run.n:,} answers are empty; they are kept")
    if run.cut:
        tell(f"{run.cut:,} of {run.n:,} answers were cut off at {options.sampling.max_new_tokens} tokens")
    return run


def _engine(
    options: GenerateOptions, prompts: PromptSet, tell: Callable[[str], None]
) -> tuple[Engine, PromptSet, dict[str, Any]]:
    """Who answers, what can be answered, and what the settings file says about it beside the engine's own words."""
    if options.engine == "server":
        served = EndpointOptions(
            base_url=options.base_url or "",
            model=options.model,
            api_key_env=options.api_key_env,
            timeout=options.timeout,
            retries=options.retries,
        )
        endpoint = ChatEndpoint(served, Budget(options.budget))
        return ServerEngine(endpoint, options.sampling, concurrency=options.concurrency), prompts, {}
    from distal.evaluation.generation.local import TransformersEngine, encode_prompts
    from distal.scoring.loading import load_tokenizer

    tokenizer: Any = load_tokenizer(
        options.tokenizer or options.model, trust_remote_code=options.trust_remote_code
    )
    if options.chat_template is not None:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    if tokenizer.chat_template and all(isinstance(prompt.row.prompt, str) for prompt in prompts.prompts):
        tell(
            "the tokenizer has a chat template, which plain prompts do not use; add --chat to have them written by it"
        )
    encoded = encode_prompts(prompts.prompts, tokenizer)
    template = str(tokenizer.chat_template or "")
    about: dict[str, Any] = {
        "chat_template": hashlib.sha256(template.encode()).hexdigest() if template else None
    }
    if options.engine == "vllm":
        settings: dict[str, Any] = {"dtype": options.dtype, "trust_remote_code": options.trust_remote_code}
        engine: Engine = VllmEngine(options.model, encoded, options.sampling, **settings)
        return engine, prompts, about
    model = _model(options, tokenizer)
    prompts, encoded = _with_room(options, prompts, encoded, model, tell)
    engine = TransformersEngine(
        model,
        tokenizer,
        encoded,
        options.sampling,
        batch_size=options.batch_size,
        about={
            "model": options.model,
            "tokenizer": options.tokenizer,
            "vocabulary": len(tokenizer),
            "dtype": str(model.dtype).removeprefix("torch."),
            **_identity(model),
            **about,
        },
    )
    return engine, prompts, {"batch_size": options.batch_size, "device": str(model.device.type)}


def _model(options: GenerateOptions, tokenizer: Any) -> Any:
    from accelerate import PartialState

    from distal.scoring.loading import check_vocabulary, load_model

    model = load_model(
        options.model,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        trust_remote_code=options.trust_remote_code,
    ).to(PartialState().device)
    check_vocabulary(model, tokenizer)
    return model


def _identity(model: Any) -> dict[str, Any]:
    from distal.scoring.fingerprint import weights_fingerprint

    attention = getattr(model.config, "_attn_implementation", None)
    return {"fingerprint": weights_fingerprint(model), "attn_implementation": attention}


def _with_room(
    options: GenerateOptions,
    prompts: PromptSet,
    encoded: list[list[int]],
    model: Any,
    tell: Callable[[str], None],
) -> tuple[PromptSet, list[list[int]]]:
    """The prompts that leave the model's context room for an answer."""
    context = getattr(model.config, "max_position_embeddings", None)
    room = None if not isinstance(context, int) else context - options.sampling.max_new_tokens
    if room is None:
        return prompts, encoded
    long = [index for index, ids in enumerate(encoded) if len(ids) > room]
    if not long:
        return prompts, encoded
    first = prompts.prompts[long[0]]
    detail = (
        f"{len(long)} prompts leave no room for {options.sampling.max_new_tokens} new tokens within the model's "
        f"{context}, the first in row {first.source_row} with {len(encoded[long[0]])} tokens"
    )
    if options.on_long_prompts == "error":
        raise DataError(
            f"{prompts.name}: {detail}; lower --max-new-tokens, or leave them out with --on-long-prompts drop"
        )
    if len(long) == len(encoded):
        raise DataError(f"{prompts.name}: {detail}, so that none is left; lower --max-new-tokens")
    tell(f"  left out: {detail}")
    kept = [index for index in range(len(encoded)) if index not in set(long)]
    rest = PromptSet(
        tuple(prompts.prompts[index] for index in kept),
        prompts.name,
        prompts.given,
        {**prompts.dropped, "prompt_too_long": len(long)},
        {**prompts.examples, "prompt_too_long": f"row {first.source_row}"},
    )
    return rest, [encoded[index] for index in kept]


def _claim(options: GenerateOptions) -> str:
    """How far the same settings give the same answers."""
    if options.engine != "transformers":
        return "not claimed: the server or vLLM decides how requests are batched"
    drawn = (
        "greedy" if options.sampling.temperature == 0 else "drawn with random numbers of each prompt's own"
    )
    return f"{drawn}, whatever the batch size and order, up to ties within the rounding of logits"


def _refuse_existing(options: GenerateOptions) -> None:
    """Refuses to replace files, before anything is computed."""
    paths = (options.output, settings_path(options.output))
    existing = [str(path) for path in paths if path.exists()]
    # Settings without answers are of a run that was killed between the two.
    if options.output.exists() and not options.overwrite:
        raise OutputError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already; nothing was touched. Name "
            "another file, or add --overwrite."
        )
