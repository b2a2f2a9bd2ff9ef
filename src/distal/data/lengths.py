"""How long the liked and the disliked completions are: the commonest way to win a preference without being better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from distal.transport import violation_ratio

__all__ = ["BIAS_AUC", "LengthComparison", "compare_lengths"]

BIAS_AUC = 0.1
"""Least distance of the AUC from 1/2 that is called a length bias, if it is significant as well."""

_STANDARD_ERRORS = 3.0
_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_PLOTTED = 101


@dataclass(frozen=True, slots=True)
class LengthComparison:
    """Lengths of liked (chosen) beside disliked (rejected) completions.

    Attributes:
        unit: tokens or characters.
        n_liked: number of liked completions.
        n_disliked: number of the others.
        mean_liked: mean length.
        mean_disliked: mean length.
        levels: levels of the quantiles in the table.
        liked: quantiles of the liked ones.
        disliked: quantiles of the others.
        auc: probability that a liked completion is the longer one, ties counting half.
        auc_error: standard error of the AUC if both had the same law.
        violation_ratio: 0 if the liked lengths dominate (are longer at every level), 1 if they are dominated, about 1/2
            where neither holds; None where both laws coincide.
        longer_chosen: share of pairs whose chosen side is longer, ties counting half; None when unpaired.
        curve: quantiles for a plot at evenly spaced levels: (liked, disliked).
    """

    unit: str
    n_liked: int
    n_disliked: int
    mean_liked: float
    mean_disliked: float
    levels: tuple[float, ...]
    liked: tuple[float, ...]
    disliked: tuple[float, ...]
    auc: float
    auc_error: float
    violation_ratio: float | None
    longer_chosen: float | None
    curve: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def is_biased(self) -> bool:
        """Whether length tells the classes apart, by more than chance."""
        distance = abs(self.auc - 0.5)
        return distance >= BIAS_AUC and distance > _STANDARD_ERRORS * self.auc_error

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain dictionaries, lists and numbers, without the curve, fit for JSON."""
        record = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
        del record["curve"]
        return record | {"is_biased": self.is_biased}


def compare_lengths(
    liked: ArrayLike, disliked: ArrayLike, *, unit: str, paired: bool
) -> LengthComparison | None:
    """Compare the laws of two samples of lengths.

    Args:
        liked: lengths of the liked completions, (n,).
        disliked: lengths of the others, (m,); belongs to `liked` item by item when paired.
        unit: tokens or characters.
        paired: whether the two belong together.

    Returns:
        The comparison; None where one side is empty.

    Examples:
        >>> compare_lengths([3, 4], [1, 2], unit="tokens", paired=True).auc
        1.0
    """
    u, v = np.asarray(liked, dtype=np.float64), np.asarray(disliked, dtype=np.float64)
    if not len(u) or not len(v):
        return None
    ratio = violation_ratio(u, v)
    even = np.linspace(0, 1, _PLOTTED)
    return LengthComparison(
        unit=unit,
        n_liked=len(u),
        n_disliked=len(v),
        mean_liked=float(u.mean()),
        mean_disliked=float(v.mean()),
        levels=_LEVELS,
        liked=_quantiles(u, _LEVELS),
        disliked=_quantiles(v, _LEVELS),
        auc=_auc(u, v),
        auc_error=math.sqrt((len(u) + len(v) + 1) / (12 * len(u) * len(v))),
        violation_ratio=None if math.isnan(ratio) else ratio,
        longer_chosen=float(np.mean((u > v) + (u == v) / 2)) if paired else None,
        curve=(_quantiles(u, even), _quantiles(v, even)),
    )


def _quantiles(sample: np.ndarray, levels: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(sample, np.asarray(levels), method="inverted_cdf").tolist())


def _auc(u: np.ndarray, v: np.ndarray) -> float:
    ordered = np.sort(v)
    below = np.searchsorted(ordered, u, side="left")
    at_most = np.searchsorted(ordered, u, side="right")
    return float((below + at_most).mean() / 2 / len(v))
