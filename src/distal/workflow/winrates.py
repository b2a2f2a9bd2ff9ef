"""Win rates from options to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from distal.caching import default_cache_dir
from distal.errors import ConfigError, OutputError
from distal.evaluation.budget import Budget, BudgetLimits
from distal.evaluation.endpoint import ChatEndpoint, EndpointOptions, find_key
from distal.evaluation.files import write_atomically
from distal.evaluation.generation import read_outputs
from distal.evaluation.journal import Journal
from distal.evaluation.judging import (
    DEFAULT_PROMPT,
    Bootstrap,
    FunctionJudge,
    Judge,
    JudgedPair,
    RewardModelJudge,
    ServerJudge,
    ServerJudgeOptions,
    WinRate,
    judge_pairs,
    judgement_lines,
    match_outputs,
    win_rate,
)
from distal.workflow.environment import package_versions

__all__ = ["JUDGES", "WinRateOptions", "evaluate_win_rate", "win_rate_json"]

JUDGES = ("server", "alpaca-eval", "reward-model", "function")
ORDERS = ("both", "model_first", "baseline_first")

_USED_BY = {
    "judge_model": ("server", "reward-model"),
    "base_url": ("server", "alpaca-eval"),
    "api_key_env": ("server", "alpaca-eval"),
    "prompt": ("server",),
    "answer_pattern": ("server",),
    "request": ("server",),
    "annotators": ("alpaca-eval",),
    "function": ("function",),
    "trust_remote_code": ("reward-model",),
}
"""Options that act with some judges only."""


@dataclass(frozen=True, kw_only=True)
class WinRateOptions:
    """What `distal evaluate winrate` can be told.

    Attributes:
        outputs: answers of the model, AlpacaEval's format.
        baseline: answers that they are compared with, to the same prompts.
        judge: server, alpaca-eval, reward-model or function.
        judge_model: name of the served model, or folder or hub id of the reward model.
        base_url: address of the server.
        api_key_env: environment variable with the server's key.
        prompt: file with the prompt of a served judge; None for Distal's own.
        answer_pattern: regular expression that finds the verdict; None: the reply is nothing else.
        request: further fields of each request, as a JSON object.
        temperature: of a served judge.
        judge_max_tokens: longest reply of a served judge.
        malformed_retries: how often a served judge is reminded that gave no verdict.
        annotators: of alpaca-eval: the name of a configuration, or a folder or file with one.
        function: length, regex:PATTERN or module:function.
        orders: both, model_first or baseline_first.
        concurrency: requests at once.
        timeout: seconds for one answer of the server.
        retries: how often a request is repeated.
        budget: limits for the server.
        batch_size: answers per forward pass of a reward model.
        dtype: of the reward model's weights.
        trust_remote_code: run Python code that comes with the reward model.
        cache_dir: folder of the judgements that are there already; None for Distal's cache.
        output: folder for `winrate.json` and `judgements.jsonl`.
        overwrite: whether files of those names may be replaced.
        bootstrap: how intervals are found.
        progress: whether to show a progress bar.
    """

    outputs: Path
    baseline: Path
    judge: str
    judge_model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    prompt: Path | None = None
    answer_pattern: str | None = None
    request: str | None = None
    temperature: float = 0.0
    judge_max_tokens: int = 1024
    malformed_retries: int = 2
    annotators: str | None = None
    function: str | None = None
    orders: str = "both"
    concurrency: int = 8
    timeout: float = 300.0
    retries: int = 5
    budget: BudgetLimits = field(default_factory=BudgetLimits)
    batch_size: int = 8
    dtype: str = "float32"
    trust_remote_code: bool = False
    cache_dir: Path | None = None
    output: Path | None = None
    overwrite: bool = False
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    progress: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("judge", JUDGES), ("orders", ORDERS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1; got {self.concurrency}.")
        idle = [name for name, judges in _USED_BY.items() if getattr(self, name) and self.judge not in judges]
        if idle:
            raise ConfigError(f"{', '.join(idle)} has no effect with judge={self.judge}; leave it out.")
        needed = {
            "server": ("base_url", "judge_model"),
            "reward-model": ("judge_model",),
            "function": ("function",),
            "alpaca-eval": ("annotators",),
        }[self.judge]
        missing = [f"--{name.replace('_', '-')}" for name in needed if not getattr(self, name)]
        if missing:
            raise ConfigError(f"judge={self.judge} needs {' and '.join(missing)}.")
        if self.overwrite and self.output is None:
            raise ConfigError("overwrite has no effect without output; leave it out.")

    @property
    def result_path(self) -> Path | None:
        """Where the win rate goes, if anywhere."""
        return None if self.output is None else self.output / "winrate.json"

    @property
    def judgements_path(self) -> Path | None:
        """Where every judgement goes, if anywhere."""
        return None if self.output is None else self.output / "judgements.jsonl"


def evaluate_win_rate(options: WinRateOptions, *, tell: Callable[[str], None] = lambda line: None) -> WinRate:
    """Judges every pair of answers and counts the verdicts.

    Args:
        options: the answers, the judge, and where results go.
        tell: called with remarks for people.

    Returns:
        The win rate, written to the files that were asked for.

    Raises:
        DistalError: anything that the user can mend; every judgement so far is kept.
    """
    _refuse_existing(options)
    model, baseline = read_outputs(options.outputs), read_outputs(options.baseline)
    pairs = match_outputs(model, baseline)
    budget = Budget(options.budget)
    judge = _judge(options, budget)
    journal = None
    if judge.stored:
        journal = Journal((options.cache_dir or default_cache_dir()) / "judgements.jsonl")
        if journal.damaged:
            tell(
                f"{journal.path}: {journal.damaged} damaged lines are skipped; what they held is asked again"
            )
    judged = judge_pairs(
        pairs,
        judge,
        orders=cast(Any, options.orders),  # checked there
        journal=journal,
        progress=options.progress,
        tell=tell,
    )
    controlled, notes = _length_controlled(options, judged, (model.generator, baseline.generator))
    record = win_rate(
        judged,
        judge,
        names=(model.generator, baseline.generator),
        bootstrap=options.bootstrap,
        length_controlled=controlled,
        notes=notes,
        usage=budget.spent(),
        settings=_settings(options, judge),
        versions=_versions(options),
    )
    # The judgements come first: where there is a win rate, what it counts is there too.
    if options.judgements_path is not None and options.result_path is not None:
        write_atomically(options.judgements_path, judgement_lines(judged))
        record.save(options.result_path)
    return record


def win_rate_json(record: WinRate) -> str:
    """The win rate as one JSON document."""
    return json.dumps(record.to_dict(), indent=2, allow_nan=False)


def _judge(options: WinRateOptions, budget: Budget) -> Judge:
    if options.judge == "function":
        return FunctionJudge(options.function or "")
    if options.judge == "reward-model":
        return _reward_model(options)
    if options.judge == "alpaca-eval":
        from distal.evaluation.judging.alpaca import AlpacaEvalJudge

        return AlpacaEvalJudge(
            options.annotators or "",
            base_url=options.base_url,
            key=_alpaca_key(options),
            concurrency=options.concurrency,
            budget=budget,
        )
    served = EndpointOptions(
        base_url=options.base_url or "",
        model=options.judge_model or "",
        api_key_env=options.api_key_env,
        timeout=options.timeout,
        retries=options.retries,
    )
    asked = ServerJudgeOptions(
        prompt=DEFAULT_PROMPT if options.prompt is None else _text(options.prompt),
        answer_pattern=options.answer_pattern,
        temperature=options.temperature,
        max_tokens=options.judge_max_tokens,
        malformed_retries=options.malformed_retries,
        request=_request(options.request),
    )
    return ServerJudge(ChatEndpoint(served, budget), asked, concurrency=options.concurrency)


def _reward_model(options: WinRateOptions) -> RewardModelJudge:
    from accelerate import PartialState

    from distal.scoring.fingerprint import weights_fingerprint
    from distal.scoring.loading import check_vocabulary, load_reward_model, load_tokenizer

    name, trusted = options.judge_model or "", options.trust_remote_code
    tokenizer = load_tokenizer(name, trust_remote_code=trusted)
    model: Any = load_reward_model(name, dtype=options.dtype, trust_remote_code=trusted)
    check_vocabulary(model, tokenizer)
    fingerprint = weights_fingerprint(model)
    return RewardModelJudge(
        model.to(PartialState().device),
        tokenizer,
        name=name,
        fingerprint=fingerprint,
        batch_size=options.batch_size,
    )


def _length_controlled(
    options: WinRateOptions, judged: list[JudgedPair], names: tuple[str, str]
) -> tuple[dict[str, Any] | None, list[str]]:
    """AlpacaEval's length-controlled win rate, or why it cannot be had."""
    if options.judge != "alpaca-eval":
        return None, []
    from distal.evaluation.judging.alpaca import length_controlled_win_rate

    if any(one.credit is None for one in judged):
        return None, ["no length-controlled win rate: some prompts have no verdict"]
    try:
        return dict(length_controlled_win_rate(judged, names)), []
    except ConfigError as error:
        return None, [f"no length-controlled win rate: {error}"]


def _settings(options: WinRateOptions, judge: Judge) -> dict[str, Any]:
    return {
        "outputs": options.outputs.name,
        "baseline": options.baseline.name,
        "orders": options.orders if judge.sees_order else "each answer on its own",
        "resamples": options.bootstrap.resamples,
        "seed": options.bootstrap.seed,
    }


def _versions(options: WinRateOptions) -> dict[str, str]:
    versions = package_versions()
    if options.judge == "alpaca-eval":
        versions["alpaca-eval"] = metadata.version("alpaca_eval")
    return versions


def _alpaca_key(options: WinRateOptions) -> str | None:
    """The key for alpaca-eval, where it is not to find one by itself."""
    if options.base_url is None and options.api_key_env is None:
        return None
    address = options.base_url or "https://api.openai.com/v1"
    asked = EndpointOptions(base_url=address, model="any", api_key_env=options.api_key_env)
    return find_key(asked) or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt: cannot read {path} ({error}); name a text file.") from None


def _request(given: str | None) -> dict[str, Any]:
    """Further fields of each request."""
    if given is None:
        return {}
    try:
        fields = json.loads(given)
    except ValueError as error:
        raise ConfigError(f"request is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError('request must be a JSON object, such as {"max_tokens": null}.')
    return fields


def _refuse_existing(options: WinRateOptions) -> None:
    """Refuses to replace files, before anything is asked."""
    paths = [path for path in (options.result_path, options.judgements_path) if path is not None]
    existing = [str(path) for path in paths if path.exists()]
    if existing and not options.overwrite:
        raise OutputError(
            f"{' and '.join(existing)} exist{'s' if len(existing) == 1 else ''} already; nothing was touched. Name "
            "another folder, or add --overwrite."
        )
