"""A test of almost stochastic dominance with stated hypotheses, and the interval that belongs to it.

The violation ratio is `a^2 / (a^2 + p^2)` with a and p the norms of the quantile gap on the wrong and on the right
side. Seen as a point (p, a) of the plane, the ratio is the squared sine of its angle, and a threshold is a line
through the origin: the ratio is below it where the point's distance from the line, `a cos - p sin`, is negative. That
distance over its standard error is the statistic, for every threshold at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.special import ndtr

from distal.transport._checks import as_statistics, check_level
from distal.transport._names import check_choice
from distal.transport.clusters import ClusterLabels, Clusters
from distal.transport.dominance import Order, check_order
from distal.transport.influence import sides
from distal.transport.resampling import check_paired, check_resampling, chunk_rows, least_resamples

__all__ = ["DominanceTest", "dominance_test"]

Method = Literal["asymptotic", "bootstrap"]

_RESAMPLES = 500

_POINTS, _ROUNDS = 32, 6
"""An end of the interval is found among 32^6 angles, to 1e-9."""


@dataclass(frozen=True)
class DominanceTest:
    """Outcome of a test whether u almost dominates v.

    Attributes:
        dominates: whether the null is rejected: `p_value <= level`. False where the ratio is undefined.
        p_value: one-sided; NaN where the ratio is undefined.
        violation_ratio: the ratio of the samples, in [0, 1]; NaN where they coincide.
        interval: confidence interval of the ratio, two-sided at `1 - 2 level`: the thresholds that neither this
            test nor its mirror image rejects. Its upper end is at or below the threshold where dominance is
            declared. (nan, nan) where the ratio is undefined.
        statistic: distance from the threshold over its standard error, negative where the ratio is below.
        threshold: largest ratio that still counts as almost dominance.
        level: of the test.
        order: 1 or 2.
        method: how the law of the statistic was found.
        null: the null hypothesis in words.
        alternative: the alternative in words.
    """

    dominates: bool
    p_value: float
    violation_ratio: float
    interval: tuple[float, float]
    statistic: float
    threshold: float
    level: float
    order: int
    method: str
    null: str
    alternative: str


def dominance_test(  # noqa: PLR0913 - two samples, a hypothesis and a resampling plan; a record would hide the call
    u: object,
    v: object,
    order: Order = 1,
    level: float = 0.05,
    *,
    threshold: float = 0.25,
    method: Method = "bootstrap",
    resamples: int | None = None,
    seed: int | None = None,
    paired: bool = False,
    clusters: ClusterLabels = None,
) -> DominanceTest:
    """Test whether u almost dominates v.

    Null: the violation ratio A / B of the two populations is at least `threshold`, where A is the violation
    `int (Q_U - Q_V)_-^2` and B the squared distance `int (Q_U - Q_V)^2` (order 2: of integrated quantiles).
    Alternative: it is below.

    With a and p the roots of violation and of what is left of the squared distance, the ratio is below the
    threshold exactly if `a cos - p sin < 0`, `sin^2 = threshold`. That statistic is divided by its standard error,
    which comes from the influence of each sample, and compared with its bootstrap law (`bootstrap`: each resample
    is centred at the samples and has its own standard error) or with the normal one (`asymptotic`). The ratio
    itself is bounded and skewed, and a test on it rejects far too often. Size and power of both methods are
    tabulated in the documentation: at first order the bootstrap can be believed from 50 samples a side on, at second
    order, and the normal law at both, from 200; later for heavy tails. Laws that nearly coincide are not covered.

    The default threshold lies halfway between dominance (0) and the ratio of laws that cross evenly (1/2).

    Args:
        u: sample that should dominate, shape (n,), n >= 2; tensor, array or list.
        v: sample to be dominated, shape (m,), m >= 2.
        order: 1 or 2.
        level: probability of declaring dominance where the ratio equals the threshold.
        threshold: largest ratio that counts as almost dominance, in (0, 1).
        method: `bootstrap` or `asymptotic`.
        resamples: of the bootstrap, 500 unless given. Its smallest p-value is `1 / (1 + resamples)`, so a level of
            0.001 needs 999.
        seed: of the bootstrap, 0 unless given; the same seed gives the same answer.
        paired: u_i and v_i belong together; needs n = m.
        clusters: labels of samples that belong together, such as prompts: an array of n labels if paired,
            else a tuple of n and m labels.

    Returns:
        The outcome, with the hypotheses in words.

    Raises:
        ValueError: a level or threshold outside (0, 1), another order or method, fewer than two samples, too
            few resamples to reach the level, resamples or a seed without a bootstrap, unequal lengths when paired,
            labels that do not fit, or a bad sample.
        TypeError: an argument of the wrong type.

    Source:
        arXiv 2310.07132, section on testing, after del Barrio, Cuesta-Albertos, Matran 2018; the contrast of
        norms in place of the ratio, the studentised bootstrap and the interval by inversion are ours.

    Examples:
        >>> u, v = torch.linspace(0.5, 1.5, 50), torch.linspace(0.0, 1.4, 50)
        >>> test = dominance_test(u, v, resamples=50)
        >>> test.dominates, test.null
        (True, 'the violation ratio of order 1 is at least 0.25')
    """
    check_order(order)
    level, threshold = check_level(level, "level"), check_level(threshold, "threshold")
    check_choice(method, "method", ("asymptotic", "bootstrap"))
    one, two, _ = as_statistics(u, v)
    n, m = one.numel(), two.numel()
    if min(n, m) < 2:
        raise ValueError(f"a test needs two samples of each, got {n} in u and {m} in v")
    resamples, seed = _resampling(method, level, resamples, seed)
    check_paired(one, two, paired=paired)
    groups = Clusters.of(clusters, n, m, paired=paired)
    observed = _Norms.of(one, two, order, groups)
    if method == "asymptotic":
        law = _NormalLaw(observed)
    else:
        draw = (
            _whole_clusters(groups) if clusters is not None else _single_samples(groups, n, m, paired=paired)
        )
        law = _BootstrapLaw(observed, _resampled(one, two, order, draw, resamples, seed))
    angle = torch.tensor([math.asin(math.sqrt(threshold))], dtype=torch.float64)
    p_value = float(law.p_values(angle))
    return DominanceTest(
        dominates=p_value <= level,
        p_value=p_value,
        violation_ratio=observed.ratio,
        interval=_interval(observed.angle, law, level),
        statistic=float(observed.statistic(angle)),
        threshold=threshold,
        level=level,
        order=order,
        method=method,
        null=f"the violation ratio of order {order} is at least {threshold}",
        alternative=f"the violation ratio of order {order} is below {threshold}: u almost dominates v",
    )


def _resampling(method: Method, level: float, resamples: int | None, seed: int | None) -> tuple[int, int]:
    """Resamples and seed of the bootstrap, refused where they have no effect or could never reject."""
    given = {"resamples": resamples, "seed": seed}
    unused = [name for name, value in given.items() if value is not None]
    if method != "bootstrap" and unused:
        raise ValueError(
            f"{unused[0]} is not used by method={method!r}, got {given[unused[0]]}; leave it out, or take "
            "method='bootstrap'"
        )
    resamples, seed = check_resampling(
        _RESAMPLES if resamples is None else resamples, 0 if seed is None else seed
    )
    if method == "bootstrap" and resamples < least_resamples(level):
        raise ValueError(
            f"{resamples} resamples can never reject at level {level}: their smallest p-value is "
            f"1/{1 + resamples}; take resamples={least_resamples(level)} or more, or method='asymptotic'"
        )
    return resamples, seed


class _Norms(NamedTuple):
    """Norms of the wrong side a and of the right side p, and the covariance of their errors, shape (...) each."""

    a: Tensor
    p: Tensor
    var_a: Tensor
    cov: Tensor
    var_p: Tensor

    @classmethod
    def of(cls, u: Tensor, v: Tensor, order: int, groups: Clusters) -> _Norms:
        wrong, right = sides(u, v, order)
        return cls(
            wrong.norm,
            right.norm,
            groups.covariance(wrong, wrong),
            groups.covariance(wrong, right),
            groups.covariance(right, right),
        )

    @property
    def angle(self) -> float:
        """Angle of the point (p, a), from 0 to pi/2; NaN where the laws coincide."""
        a, p = float(self.a), float(self.p)
        return math.atan2(a, p) if a > 0 or p > 0 else math.nan

    @property
    def ratio(self) -> float:
        """The violation ratio; NaN where the laws coincide."""
        squares = float(self.a.square()), float(self.p.square())
        return squares[0] / sum(squares) if max(squares) > 0 else math.nan

    def statistic(self, angle: Tensor, centre: _Norms | None = None) -> Tensor:
        """Distance from lines at some angles over its standard error, or its deviation from that of `centre`.

        Args:
            angle: shape (k,).
            centre: norms to measure from; the lines themselves if None.

        Returns:
            Shape (k, ...).
        """
        angle = angle.view(-1, *[1] * self.a.ndim)
        cos, sin = angle.cos(), angle.sin()
        a, p = (self.a, self.p) if centre is None else (self.a - centre.a, self.p - centre.p)
        distance = a * cos - p * sin
        variance = cos**2 * self.var_a - 2 * cos * sin * self.cov + sin**2 * self.var_p
        # A distance of exactly 0 is no deviation, though nothing be known of its error.
        ratio = torch.where(distance == 0, 0.0, distance / variance.clamp_min(0).sqrt())
        return torch.where((self.a > 0) | (self.p > 0), ratio, torch.nan)


class _NormalLaw:
    """The normal law of the statistic."""

    def __init__(self, observed: _Norms) -> None:
        self._observed = observed

    def p_values(self, angle: Tensor, *, mirrored: bool = False) -> Tensor:
        """Probability of a statistic as low as the observed one (as high, if mirrored), at each angle, shape (k,)."""
        statistic = self._observed.statistic(angle)
        return ndtr(-statistic if mirrored else statistic)


class _BootstrapLaw:
    """The law of the statistic over resamples, each with its own standard error."""

    def __init__(self, observed: _Norms, resampled: _Norms) -> None:
        self._observed = observed
        defined = (resampled.a > 0) | (resampled.p > 0)
        self._resampled = _Norms(*(x[defined] for x in resampled))

    def p_values(self, angle: Tensor, *, mirrored: bool = False) -> Tensor:
        """Share of the law as low as the statistic (as high, if mirrored), which counts as one of the draws."""
        statistic = self._observed.statistic(angle)
        law = self._resampled.statistic(angle, centre=self._observed)
        beyond = law >= statistic[:, None] if mirrored else law <= statistic[:, None]
        share = (1 + beyond.sum(1)).double() / (1 + law.shape[1])
        return torch.where(statistic.isnan() | (law.shape[1] == 0), torch.nan, share)


def _interval(observed: float, law: _NormalLaw | _BootstrapLaw, level: float) -> tuple[float, float]:
    """Ratios that neither the test nor its mirror image rejects, from the observed one outwards."""
    if math.isnan(observed):
        return math.nan, math.nan
    ends = (
        _first_rejected(lambda angle: law.p_values(angle, mirrored=True), observed, 0.0, level),
        _first_rejected(law.p_values, observed, math.pi / 2, level),
    )
    low, high = (round(math.sin(end) ** 2, 9) for end in ends)
    return low, high


def _first_rejected(p_values: Callable[[Tensor], Tensor], start: float, last: float, level: float) -> float:
    """The first angle on the way from `start` to `last` whose p-value is at most the level; `last` if there is none.

    NaN where p-values are undefined.
    """
    if math.isnan(float(p_values(torch.tensor([last], dtype=torch.float64)))):
        return math.nan
    for _ in range(_ROUNDS):
        points = torch.linspace(start, last, _POINTS + 1, dtype=torch.float64)
        rejected = (p_values(points[1:]) <= level).nonzero()
        if rejected.numel() == 0:
            break
        first = int(rejected[0])
        start, last = float(points[first]), float(points[first + 1])
    return last


_Draw = Callable[[int, torch.Generator], Iterator[tuple[Tensor, Tensor, Clusters]]]
"""Yields portions of a number of resamples: indices of u (..., n), of v (..., m), and their clusters."""


def _single_samples(groups: Clusters, n: int, m: int, *, paired: bool) -> _Draw:
    """Resamples of single pairs or samples, many at a time: all have the sizes of the original."""

    def draw(resamples: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Clusters]]:
        for rows in chunk_rows(resamples, n + m):
            i = torch.randint(n, (rows, n), generator=generator)
            yield i, i if paired else torch.randint(m, (rows, m), generator=generator), groups

    return draw


def _whole_clusters(groups: Clusters) -> _Draw:
    """Resamples of clusters, one at a time: their sizes differ. Those with fewer than two samples are left out."""

    def draw(resamples: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Clusters]]:
        for _ in range(resamples):
            i, j, drawn = groups.resample(generator)
            if min(i.numel(), j.numel()) >= 2:
                yield i[None], j[None], drawn

    return draw


def _resampled(u: Tensor, v: Tensor, order: int, draw: _Draw, resamples: int, seed: int) -> _Norms:
    """Norms of the resamples, with the covariance of their own errors, shape (resamples,) each."""
    generator = torch.Generator().manual_seed(seed)
    portions = [_Norms.of(u[i], v[j], order, drawn) for i, j, drawn in draw(resamples, generator)]
    empty = torch.empty(0, dtype=torch.float64)
    # No portion at all, where every resample of clusters was too small.
    return _Norms(*(torch.cat([empty, *(portion[k] for portion in portions)]) for k in range(5)))
