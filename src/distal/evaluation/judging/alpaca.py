"""AlpacaEval's own annotators and its length-controlled win rate, by the package `alpaca-eval`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import math
import os
import re
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from distal.errors import ConfigError, ServiceError
from distal.evaluation.budget import Budget
from distal.evaluation.judging.questions import (
    JudgedPair,
    Judgement,
    KeepJudgement,
    Question,
    model_preference,
)
from distal.evaluation.threads import in_threads

__all__ = ["AlpacaEvalJudge", "LengthControlled", "length_controlled_win_rate"]

_HINT = (
    "alpaca-eval is not installed: `pip install 'alpaca-eval>=0.6.6'`, or use --judge server with a prompt of "
    "your own."
)
_DATASET = "tatsu-lab/alpaca_eval"
_REFERENCE = "alpaca_eval_gpt4_baseline.json"
_NO_KEY = "no-key"
"""What the client of OpenAI sends to a server that wants none; it insists on one."""

_SECRET = re.compile("api_?key|secret|password|authorization|credential", re.IGNORECASE)


class AlpacaEvalJudge:
    """Asks an annotator of AlpacaEval, by the package's own code: prompts, decoders and parsers are its own.

    The package shows the answers in an order that it draws from the instruction; asking again with the answers
    exchanged shows them in the other one. It repeats failed requests by itself. Its own files of annotations are
    neither read nor written: `Journal` keeps every judgement.

    Args:
        annotators: name of one of its configurations, or path of a folder with a `configs.yaml`, or of such a file.
        base_url: address of another server, for configurations of its `openai_completions`.
        key: for that server; passed on, not kept in any record.
        concurrency: most annotations at once.
        budget: limits the number of annotations; tokens and cost the package does not report.

    Raises:
        ConfigError: the package is not installed, or there is no such configuration.
    """

    sees_order = True
    keeps_order = False
    stored = True

    def __init__(
        self,
        annotators: str,
        *,
        base_url: str | None = None,
        key: str | None = None,
        concurrency: int = 8,
        budget: Budget | None = None,
    ) -> None:
        self._package = _imported()
        self._name = annotators
        self._concurrency = concurrency
        self._budget = budget or Budget()
        if self._budget.limits.tokens is not None or self._budget.limits.cost is not None:
            raise ConfigError(
                "max_tokens and max_cost cannot be kept with alpaca-eval, which does not report tokens: use "
                "--max-requests."
            )
        self._config = _configuration(annotators, self._package)
        self._extra: dict[str, Any] = {}
        if base_url is not None or key:
            others = {one.get("fn_completions", "openai_completions") for one in self._config.values()}
            if others != {"openai_completions"}:
                raise ConfigError(
                    f"base_url and api_key_env have no effect on {annotators}, which asks by "
                    f"{', '.join(sorted(map(str, others)))}; leave them out."
                )
        if base_url is not None:
            self._extra = {"openai_api_base": base_url, "openai_api_keys": [key or _NO_KEY]}
        elif key:
            self._extra = {"openai_api_keys": [key]}
        self._base_url = base_url
        self._annotator = self._made(annotators)
        self.stopped = threading.Event()

    def describe(self) -> dict[str, Any]:
        """The configuration with the text of its prompts, and the version of the package."""
        prompts = {name: one.prompt_template for name, one in self._annotator.annotators.items()}
        return {
            "judge": "alpaca-eval",
            "annotators": self._name if not Path(self._name).exists() else Path(self._name).name,
            "config": self._config,
            "prompts": prompts,
            "base_url": self._base_url,
            "version": metadata.version("alpaca_eval"),
        }

    def run(self, questions: Sequence[Question], keep: KeepJudgement, *, progress: bool) -> None:
        """One annotation per question, several at once."""

        def ask(question: Question) -> None:
            if self.stopped.is_set():
                raise ServiceError("stopped, because another annotation failed.")
            self._budget.reserve()
            keep(question, self._annotated(question))

        with _quiet():
            in_threads(
                questions,
                ask,
                concurrency=self._concurrency,
                stopped=self.stopped,
                description="Judging" if progress else None,
            )

    def _annotated(self, question: Question) -> Judgement:
        asked = {
            "instruction": question.prompt,
            "output_1": question.first,
            "output_2": question.second,
        }
        try:
            answers = self._annotator([asked], **self._extra)
        except Exception as error:  # its decoders raise whatever their libraries raise
            said = self._without_key(str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise ServiceError(
                f"alpaca-eval's annotator {self._name} failed: {type(error).__name__}: {said[:300]}. What was "
                "judged so far is kept: start again to go on from here."
            ) from None
        finally:
            self._annotator.df_annotations = None  # the package would carry every annotation along
        found: dict[str, Any] = answers[0] if answers else {}
        raw = found.get("preference_raw_completion")
        text = raw if isinstance(raw, str) else json.dumps(raw, default=str)
        value = found.get("preference")
        if not isinstance(value, (int, float)) or math.isnan(value) or not 0 <= value <= 2:
            return Judgement(None, self._without_key(text), "alpaca-eval found no verdict in the reply")
        # From 1, the first is better, to 2, the second is; 0 is an old way to write a tie.
        return Judgement(0.5 if value == 0 else 2.0 - float(value), self._without_key(text))

    def _without_key(self, text: str) -> str:
        own = os.environ.get("OPENAI_API_KEYS", os.environ.get("OPENAI_API_KEY", ""))  # the package's names
        for key in (*self._extra.get("openai_api_keys", ()), *own.split(",")):
            text = text.replace(key, "***") if key.strip() and key != _NO_KEY else text
        return text

    def _made(self, annotators: str) -> Any:
        path = Path(annotators)
        try:
            return self._package.annotators.PairwiseAnnotator(
                annotators_config=str(path.resolve()) if path.exists() else annotators,
                caching_path=None,
                is_avoid_reannotations=False,
            )
        except Exception as error:  # whatever a broken configuration makes the package raise
            raise ConfigError(
                f"alpaca-eval cannot use the annotators {annotators}: {type(error).__name__}: {error}"
            ) from error


class LengthControlled(dict[str, Any]):
    """AlpacaEval's length-controlled win rate with its standard error, both as shares, and where it comes from."""


def length_controlled_win_rate(judged: Sequence[JudgedPair], generators: tuple[str, str]) -> LengthControlled:
    """AlpacaEval's length-controlled win rate, by the package's own function.

    It is defined for AlpacaEval's own prompts, since its model has a difficulty of each of them. The difficulties
    and the prompts are files of the data set tatsu-lab/alpaca_eval on the hub. The judgements that count are those
    with the baseline as the package's first output, as in the package's own command.

    Args:
        judged: the pairs, all with a verdict.
        generators: names of the model and the baseline.

    Raises:
        ConfigError: the package is not installed, the files cannot be had, or the prompts are not AlpacaEval's.
    """
    package = _imported()
    order = _alpaca_prompts(package)
    found = {one.pair.prompt: one for one in judged}
    if set(order) != set(found) or len(order) != len(judged):
        same = len(set(order) & set(found))
        raise ConfigError(
            f"it is defined for AlpacaEval's own {len(order)} prompts, of which {same} are among these {len(judged)}"
        )
    import pandas as pd

    model, baseline = generators
    rows = [
        {
            "instruction": prompt,
            "output_1": found[prompt].pair.baseline,
            "output_2": found[prompt].pair.model,
            "generator_1": baseline,
            "generator_2": model if model != baseline else f"{model} (evaluated)",
            "annotator": "distal",
            "preference": 1.0 + _official_credit(found[prompt]),
        }
        for prompt in order
    ]
    try:
        with _quiet():
            metrics = package.metrics.get_length_controlled_winrate(
                pd.DataFrame(rows), save_weights_dir=None, is_warn_extreme_changes=False
            )
    except Exception as error:  # the package's model of lengths, or a file of the hub
        raise ConfigError(f"alpaca-eval's own function failed: {_first_line(error)}") from error
    version = metadata.version("alpaca_eval")
    return LengthControlled(
        win_rate=float(metrics["length_controlled_winrate"]) / 100,
        standard_error=float(metrics["lc_standard_error"]) / 100,
        source=f"alpaca_eval {version}, length_controlled_v1",
    )


def _official_credit(one: JudgedPair) -> float:
    """The preference for the model where the baseline is the first output; the mean where that was not asked."""
    for model_first, judgement in one.orders:
        value = model_preference(model_first, judgement)
        if not model_first and value is not None:
            return value
    credit = one.credit
    if credit is None:
        raise ConfigError("a pair has no verdict")
    return credit


def _alpaca_prompts(package: Any) -> list[str]:
    """AlpacaEval's prompts in their order, from the hub or its cache."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            repo_id=_DATASET,
            filename=_REFERENCE,
            repo_type="dataset",
            token=package.constants.DATASETS_TOKEN,
            cache_dir=package.constants.DEFAULT_CACHE_DIR,
        )
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [row["instruction"] for row in rows]
    except Exception as error:  # no network, no such file, or one of another form
        raise ConfigError(
            f"it needs files of the data set {_DATASET} on the hub, which cannot be had: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _imported() -> Any:
    """The package; importing it turns on the chatter of the root logger, which is undone."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        metadata.version("alpaca_eval")
        with _version_lookup():
            return importlib.import_module("alpaca_eval")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(_HINT) from error
    except ImportError as error:
        raise ConfigError(f"alpaca-eval is installed but cannot be imported: {error}.") from error
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


@contextmanager
def _version_lookup() -> Generator[None]:
    """What the package takes from `pkg_resources`, where setuptools (from 81 on) no longer brings that.

    It looks up and compares versions with it.
    """
    from packaging.version import parse

    name = "pkg_resources"
    if importlib.util.find_spec(name) is not None:
        yield
        return
    module = ModuleType(name)
    vars(module).update(get_distribution=metadata.distribution, parse_version=parse)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def _configuration(annotators: str, package: Any) -> dict[str, Any]:
    """The content of a configuration of annotators."""
    import yaml

    path = Path(annotators)
    file = path if path.exists() else Path(package.constants.EVALUATORS_CONFIG_DIR) / annotators
    file = file / "configs.yaml" if file.is_dir() else file
    if not file.is_file():
        names = sorted(
            one.parent.name for one in Path(package.constants.EVALUATORS_CONFIG_DIR).glob("*/configs.yaml")
        )
        known = "" if path.exists() else f"; it knows {', '.join(names)}"
        raise ConfigError(
            f"alpaca-eval has no annotators {annotators}{known}. Or name a folder with a configs.yaml."
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} is no readable YAML: {_first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(one, dict) for one in content.values()):
        raise ConfigError(f"{file} should map names of annotators to their settings.")
    for name in _names_in(content):
        if _SECRET.search(name):
            raise ConfigError(
                f"{file} holds {name}: it becomes part of the result, so keys belong into an environment variable "
                "(OPENAI_API_KEY, or the one that --api-key-env names)."
            )
    return content


def _names_in(content: Any) -> Iterator[str]:
    """Every key of nested mappings."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield str(name)
            yield from _names_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from _names_in(value)


@contextmanager
def _quiet() -> Generator[None]:
    """The package without its progress bars, one for each annotation, and without its log of every step."""
    modules: list[Any] = [importlib.import_module("alpaca_eval.utils")]
    with suppress(ImportError):  # a decoder that is not used needs not be there
        modules.append(importlib.import_module("alpaca_eval.decoders.openai"))
    before = [module.tqdm for module in modules]
    root = logging.getLogger()
    level = root.level
    silent = SimpleNamespace(tqdm=_without_bar)
    for module in modules:
        module.tqdm = silent
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        for module, bar in zip(modules, before, strict=True):
            module.tqdm = bar


def _without_bar(items: Any, **_: Any) -> Any:
    """Stands in for `tqdm.tqdm`."""
    return items
