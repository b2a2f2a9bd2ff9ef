"""Which checkpoint counts as the best one, where a metric of evaluation is to decide."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping

from distal.errors import ConfigError
from distal.training.suggestions import nearest

__all__ = ["better_is_greater", "may_be_best"]

logger = logging.getLogger(__name__)

_LOWER = ("loss", "dominance/violation_ratio")
"""Endings of metrics of which less is better."""


def better_is_greater(metric: str | None, given: bool | None) -> bool | None:
    """The direction of `metric_for_best_model`, for metrics whose direction is known to be down.

    Args:
        metric: name of the metric; None where none decides.
        given: `greater_is_better` as the user set it.

    Returns:
        What `TrainingArguments` is to be told; None to let it decide.

    Raises:
        ConfigError: the user wants the largest violation ratio.

    Examples:
        >>> better_is_greater("dominance/violation_ratio", None), better_is_greater("dominance/auc", None)
        (False, None)
    """
    if metric is None or not metric.endswith(_LOWER):
        return given
    if given and metric.endswith("violation_ratio"):
        raise ConfigError(
            f"greater_is_better: {metric} is 0 where preferred responses dominate and 1 where they are dominated, so "
            "the smallest one is best; leave it out, or set false"
        )
    return False if given is None else given


def may_be_best(metric: str, metrics: Mapping[str, float], undefined: Collection[str]) -> bool:
    """Whether an evaluation has a value of the metric that decides; an undefined one never counts as best.

    Args:
        metric: its name, with or without the prefix `eval_`.
        metrics: of the evaluation.
        undefined: names of metrics that have no value in it, without prefix of a set.

    Raises:
        ConfigError: there is no such metric.
    """
    name = metric if metric.startswith("eval_") else f"eval_{metric}"
    if name in metrics:
        return not math.isnan(metrics[name])
    if name in undefined:
        logger.info("%s is undefined at this evaluation, which therefore cannot be the best one.", name)
        return False
    known = [key for key in metrics if key.startswith("eval_")]
    raise ConfigError(f"metric_for_best_model: no evaluation has {name}{nearest(name, known)}")
