"""When a measurement becomes a finding: one threshold for each guard, and None to switch it off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from distal.errors import ConfigError
from distal.training.suggestions import nearest

__all__ = ["HealthThresholds"]


@dataclass(frozen=True)
class _Range:
    """Values that a threshold may have."""

    low: float
    high: float = math.inf
    whole: bool = False

    def check(self, name: str, value: object) -> None:
        kinds = (int,) if self.whole else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value < self.high
        if not fits:
            raise ConfigError(f"health: {name}: expected {self}, got {value!r}")

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return (
            f"{kind} from {self.low:g} on"
            if self.high == math.inf
            else f"{kind} from {self.low:g} to below {self.high:g}"
        )


_SHARE = _Range(0.0, 1.0)


def _threshold(default: float | None, help: str, bounds: _Range, *, needs: str | None = None) -> Any:
    return field(default=default, metadata={"help": help, "range": bounds, "needs": needs})


@dataclass(frozen=True, kw_only=True)
class HealthThresholds:
    """Thresholds of the guards that watch a run; None switches a guard off.

    Except for `sort_group_bias` in groups of one, guards judge the last `window` steps together, so that a run
    shorter than that is measured but not judged.

    Raises:
        ConfigError: a value is out of range, or has no effect.

    Examples:
        >>> HealthThresholds(reward_fall=None).window
        20
    """

    window: int = _threshold(20, "optimizer steps that are judged together", _Range(5, whole=True))
    sort_group_bias: float | None = _threshold(
        0.1, "share of the loss that is an artefact of the size of the sort group, at most", _SHARE
    )
    effective_share: float | None = _threshold(
        0.1, "effective share of the samples that carry the gradient, at least", _SHARE
    )
    reward_fall: float | None = _threshold(
        1.0, "nats by which both mean rewards may fall within the window", _Range(0.0)
    )
    surprise_ratio: float | None = _threshold(
        0.5, "surprise at preferred completions relative to the reference's, at least", _SHARE
    )
    length_correlation: float | None = _threshold(
        0.5, "rank correlation of reward and completion length, either way, at most", _SHARE
    )
    probe_every: int | None = _threshold(
        None, "steps between two looks at the probe set; None for no probe", _Range(1, whole=True)
    )
    probe_size: int = _threshold(16, "prompts in the probe set", _Range(1, whole=True), needs="probe_every")
    entropy_ratio: float | None = _threshold(
        0.5, "token entropy on the probe set relative to the start, at least", _SHARE, needs="probe_every"
    )
    probe_new_tokens: int | None = _threshold(
        None,
        "longest generation on the probe set, tokens; None for no generations",
        _Range(1, whole=True),
        needs="probe_every",
    )
    length_ratio: float | None = _threshold(
        0.5,
        "mean length of generations relative to the start, at least (and at most its inverse)",
        _SHARE,
        needs="probe_new_tokens",
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.default is not None and item.name in ("window", "probe_size"):
                raise ConfigError(f"health: {item.name}: expected {item.metadata['range']}, got None")
            if value is not None:
                item.metadata["range"].check(item.name, value)
            needs = item.metadata["needs"]
            if needs is not None and value != item.default and getattr(self, needs) is None:
                raise ConfigError(
                    f"health: {item.name} has no effect without {needs}; set that too, or leave it out"
                )
        if self.probe_every is not None and self.entropy_ratio is None and self.probe_new_tokens is None:
            raise ConfigError(
                "health: probe_every has no effect while entropy_ratio is None and probe_new_tokens is not set"
            )

    @classmethod
    def from_option(cls, value: object) -> HealthThresholds | None:
        """The thresholds that the option `health` means.

        Args:
            value: True for the defaults, False for no guards, or a mapping of thresholds to values.

        Examples:
            >>> HealthThresholds.from_option({"window": 50}).window
            50
        """
        if isinstance(value, HealthThresholds):
            return value
        if isinstance(value, bool):
            return cls() if value else None
        if not isinstance(value, Mapping):
            raise ConfigError(f"health: expected true, false or a mapping of thresholds, got {value!r}")
        known = [item.name for item in fields(cls)]
        for name in value:
            if name not in known:
                raise ConfigError(f"health: unknown threshold {name!r}{nearest(name, known)}")
        return cls(**{str(name): item for name, item in value.items()})
