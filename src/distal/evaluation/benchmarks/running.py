"""One task under one model, through lm-evaluation-harness."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from distal.errors import ConfigError, DataError, ModelError
from distal.evaluation.benchmarks.harness import contained
from distal.evaluation.benchmarks.records import TaskOutcome

__all__ = ["GENERATION_WORK", "evaluate_task", "work_of"]

GENERATION_WORK = 40.0
"""Work of a generation in units of a log-likelihood, for the estimate of the time left."""

_BOOTSTRAP = 1000
"""Resamples for standard errors of metrics that are no means; those that are have a formula."""


def evaluate_task(
    language_model: Any,
    name: str,
    task: Any,
    *,
    limit: int | None,
    seed: int,
    apply_chat_template: bool,
    settings: Mapping[str, Any],
) -> TaskOutcome:
    """Evaluates one task.

    Args:
        language_model: from `distal.evaluation.benchmarks.language_model`.
        name: of the task.
        task: an `lm_eval` task, its number of examples in the prompt already set.
        limit: evaluate the first so many documents only.
        seed: of everything random, the choice of examples in the prompt above all.
        apply_chat_template: whether prompts become messages, which the tokenizer's chat template writes.
        settings: what to record that the result depends on.

    Raises:
        ModelError: the model cannot answer, its context being too short, for instance.
        NonFiniteError: a log-likelihood is not finite.
    """
    import lm_eval

    evaluate: Any = lm_eval.evaluate  # its decorator carries no complete types
    requests, cut = language_model.requests, language_model.cut
    begun = time.monotonic()
    with contained(silent=True):
        _seed(seed)
        task.set_fewshot_seed(seed=seed)
        try:
            found = evaluate(
                lm=language_model,
                task_dict={"tasks": {name: task}},
                limit=limit,
                bootstrap_iters=_BOOTSTRAP,
                log_samples=True,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
                confirm_run_unsafe_code=False,
            )
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{name}: out of GPU memory; lower --batch-size, or load the models with --dtype bfloat16."
            ) from error
        except (AssertionError, IndexError, ValueError) as error:
            if isinstance(error, DataError | ConfigError):
                raise
            raise ModelError(f"{name} cannot be evaluated: {_first_line(error)}") from error
    values: dict[str, Any] = found["results"][name]
    keys = [key for key in values if "," in key and not key.partition(",")[0].endswith("_stderr")]
    return TaskOutcome(
        task=name,
        version=str(found["versions"].get(name)),
        metrics={_plain(key): float(values[key]) for key in keys},
        stderrs={_plain(key): _number(values.get(key.replace(",", "_stderr,", 1))) for key in keys},
        higher_is_better={
            _plain(key): bool(found["higher_is_better"][name].get(key.partition(",")[0], True))
            for key in keys
        },
        n=int(found["n-samples"][name]["effective"]),
        n_total=int(found["n-samples"][name]["original"]),
        requests=language_model.requests - requests,
        cut=language_model.cut - cut,
        seconds=round(time.monotonic() - begun, 3),
        settings=dict(settings),
        documents=[_record(sample) for sample in found["samples"][name]],
    )


def work_of(task: Any, limit: int | None) -> float:
    """How much there is to do, in log-likelihoods, for the estimate of the time left."""
    n = len(task.eval_docs) if limit is None else min(limit, len(task.eval_docs))
    if task.OUTPUT_TYPE == "generate_until":
        return n * GENERATION_WORK
    if task.OUTPUT_TYPE == "multiple_choice":
        return n * float(len(task.doc_to_choice(task.eval_docs[0])))
    return float(n)


def _seed(seed: int) -> None:
    """Seeds the generators that the harness's own entry point seeds."""
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what tasks use that draw at random
    torch.manual_seed(seed)


def _record(sample: dict[str, Any]) -> dict[str, Any]:
    """One document, with the prompt once where all requests share it."""
    contexts = [str(arguments[0]) for arguments in sample["arguments"]]
    asked = [arguments[1] if len(arguments) > 1 else None for arguments in sample["arguments"]]
    shared = len(set(contexts)) == 1
    texts = all(isinstance(text, str) for text in asked)
    target = sample["target"]
    return {
        "doc_id": sample["doc_id"],
        "filter": sample["filter"],
        "doc_hash": sample["doc_hash"],
        "prompt": contexts[0] if shared else contexts,
        "continuations": asked if texts else None,
        "target": target if isinstance(target, str | int | list) else str(target),
        "responses": _responses(sample["resps"]),
        "filtered": _responses(sample["filtered_resps"]),
        "metrics": {name: _json_value(sample[name]) for name in sample["metrics"]},
    }


def _responses(found: Any) -> Any:
    """Responses without tuples and numbers that JSON does not know."""
    if isinstance(found, list | tuple):
        return [_responses(item) for item in found]
    return _json_value(found)


def _json_value(value: Any) -> Any:
    """A number, text or list; NumPy's scalars become Python's."""
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _plain(key: str) -> str:
    """The harness's `metric,filter`, without the filter where there is none."""
    return key.removesuffix(",none")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
