"""Weights of rows: used, left out, or refused where the loss has no place for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distal.data import TokenizedPreferences
from distal.errors import ConfigError
from distal.objectives import Objective

if TYPE_CHECKING:
    from distal.training.config import AlignmentConfig

__all__ = ["weighted_as_set"]


def weighted_as_set(
    dataset: TokenizedPreferences, args: AlignmentConfig, objective: Objective, name: str
) -> TokenizedPreferences:
    """The data set with its weights, or without where `use_weights` is off.

    Args:
        dataset: as it was read.
        args: settings of the run.
        objective: what the run minimises.
        name: what to call the data set in messages.

    Raises:
        ConfigError: there are weights, and the objective has no place for them.
    """
    if dataset.weights is None or not args.use_weights:
        return dataset if dataset.weights is None else dataset.without_weights()
    reason = objective.refuses_weights
    if args.order_statistics == "stream":
        reason = "running laws (order_statistics: stream) hold rewards without weights; use order_statistics: batch"
    if reason is not None:
        raise ConfigError(
            f"the {name} data has a column weight, and {reason}. Or leave the weights out with use_weights: false."
        )
    return dataset
