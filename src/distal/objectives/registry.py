"""The objectives by name, and what each of them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from distal.objectives.aot import Aot, Aot2, Aot2Unpaired, AotUnpaired
from distal.objectives.base import DataKind, Objective
from distal.objectives.kto import Kto
from distal.objectives.mix import Mix
from distal.objectives.pairwise import Dpo, Hinge, Ipo
from distal.objectives.sft import Sft
from distal.transport._names import nearest

__all__ = ["ObjectiveInfo", "describe_objective", "get_objective", "objective_names"]

_OBJECTIVES: Mapping[str, type[Objective]] = MappingProxyType(
    {
        objective.name: objective
        for objective in (Aot, AotUnpaired, Dpo, Ipo, Hinge, Kto, Aot2, Aot2Unpaired, Sft, Mix)
    }
)


@dataclass(frozen=True)
class ObjectiveInfo:
    """What is known of an objective before it is built.

    Attributes:
        name: its name in `get_objective`.
        needs: `paired`, or `unpaired` (which takes pairs too).
        couples_batch: whether one unit's loss depends on the others of the batch, with default options.
        options: name of each option, and one line on what it does.
        default_beta: the default slope, 1/nats; None if it has no beta.
        beta_source: where that default comes from; None if it has no beta.
        source: paper and equation.
    """

    name: str
    needs: DataKind
    couples_batch: bool
    options: Mapping[str, str]
    default_beta: float | None
    beta_source: str | None
    source: str


def objective_names() -> tuple[str, ...]:
    """Names of all objectives.

    Examples:
        >>> "aot" in objective_names()
        True
    """
    return tuple(_OBJECTIVES)


def _lookup(name: object) -> type[Objective]:
    if not isinstance(name, str):
        raise TypeError(f"objective must be a name, got {type(name).__name__}")
    if name not in _OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}{nearest(name, _OBJECTIVES)}")
    return _OBJECTIVES[name]


def describe_objective(name: str) -> ObjectiveInfo:
    """Data kind, coupling, options, default beta and sources of an objective.

    Raises:
        ValueError: no objective has this name.

    Examples:
        >>> info = describe_objective("dpo")
        >>> info.needs, info.couples_batch, info.default_beta, list(info.options)
        ('paired', False, 0.1, ['beta', 'label_smoothing'])
    """
    objective = _lookup(name)
    options = {key: item.metadata["help"] for key, item in objective.options().items()}
    default = objective()
    return ObjectiveInfo(
        name=name,
        needs=default.needs,
        couples_batch=default.couples_batch,
        options=MappingProxyType(options),
        default_beta=objective.default_beta,
        beta_source=objective.beta_source,
        source=objective.source,
    )


def get_objective(name: str, **options: Any) -> Objective:
    """Build an objective.

    Args:
        name: one of `objective_names()`.
        **options: its options; see `describe_objective(name).options`. None stands for the default.

    Returns:
        The objective: a callable from `SequenceScores` to `ObjectiveOutput`, with `name`, `needs` and
        `couples_batch`.

    Raises:
        ValueError: unknown name, an option that the objective does not use (even if None), or a value out of
            range.
        TypeError: a value of the wrong type.

    Examples:
        >>> get_objective("aot", cost="squared_hinge", margin=5.0).couples_batch
        True
        >>> get_objective("dpo", kl_baseline="none")
        Traceback (most recent call last):
            ...
        ValueError: option 'kl_baseline' is not used by objective 'dpo', only by kto; Known: beta, label_smoothing
    """
    objective = _lookup(name)
    known = objective.options()
    for key in options:
        if key not in known:
            users = [other for other, kind in _OBJECTIVES.items() if key in kind.options()]
            others = f", only by {', '.join(users)}" if users else ""
            raise ValueError(f"option {key!r} is not used by objective {name!r}{others}{nearest(key, known)}")
    return objective(**{key: value for key, value in options.items() if value is not None})
