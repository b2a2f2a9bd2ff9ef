"""Bootstrap of the violation ratio."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from distal.transport._checks import as_statistics, check_flag, check_level, check_whole
from distal.transport.clusters import ClusterLabels, Clusters
from distal.transport.dominance import Order, check_order, ratio_of_sorted
from distal.transport.solver import merge_grids, staircase

__all__ = [
    "bootstrap_ratios",
    "bootstrap_violation_ratio",
    "check_paired",
    "check_resampling",
    "chunk_rows",
    "least_resamples",
]

_CHUNK = 1 << 22
"""Elements of resampled data held at once: bounds memory, 32 MiB per array of doubles."""


def _sorted_draws(n: int, rows: int, generator: torch.Generator) -> Tensor:
    """Ranks of a resample of n with replacement, already in order, shape (rows, n).

    Normalised partial sums of exponential variables are the order statistics of uniform ones, so that no sort
    of the resample is needed.
    """
    spacings = torch.empty(rows, n + 1, dtype=torch.float64).exponential_(generator=generator).cumsum(-1)
    return (spacings[:, :-1] / spacings[:, -1:] * n).long().clamp_(max=n - 1)


def _independent(u: Tensor, v: Tensor) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    u_sorted, v_sorted = u.sort().values, v.sort().values

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        u_rank = _sorted_draws(u.numel(), rows, generator)
        v_rank = _sorted_draws(v.numel(), rows, generator)
        return u_sorted[u_rank], v_sorted[v_rank]

    return draw


def _joint(u: Tensor, v: Tensor) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(u.numel(), (rows, u.numel()), generator=generator)
        return u[index].sort(-1).values, v[index].sort(-1).values

    return draw


def _clustered(
    u: Tensor, v: Tensor, clusters: Clusters, order: int
) -> Callable[[int, torch.Generator], Tensor]:
    """Draw whole clusters: a sample weighs as often as its cluster was drawn."""
    u_sorted, u_order = u.sort()
    v_sorted, v_order = v.sort()
    u_cluster, v_cluster = clusters.u[u_order], clusters.v[v_order]
    one = torch.ones((), dtype=torch.float64)

    def ratios(rows: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(clusters.count, (rows, clusters.count), generator=generator)
        times = torch.zeros(rows, clusters.count, dtype=torch.float64).scatter_add_(
            1, drawn, one.expand(drawn.shape)
        )
        u_reached, v_reached = times[:, u_cluster].cumsum(-1), times[:, v_cluster].cumsum(-1)
        # A resample without any sample of one side is no law; it divides by zero and drops out as NaN.
        u_breaks, v_breaks = u_reached / u_reached[:, -1:], v_reached / v_reached[:, -1:]
        cells = merge_grids(u_breaks[:, :-1], v_breaks[:, :-1], one)
        return ratio_of_sorted(u_sorted, v_sorted, cells, order)

    return ratios


def _unclustered(
    u: Tensor, v: Tensor, order: int, *, paired: bool
) -> Callable[[int, torch.Generator], Tensor]:
    draw = (_joint if paired else _independent)(u, v)
    cells = staircase(u.numel(), v.numel(), u.device)
    return lambda rows, generator: ratio_of_sorted(*draw(rows, generator), cells, order)


def bootstrap_ratios(
    u: Tensor,
    v: Tensor,
    order: int,
    resamples: int,
    seed: int,
    *,
    paired: bool,
    clusters: ClusterLabels = None,
) -> Tensor:
    """Violation ratios of the resampled data, float64, shape (resamples,); NaN where a resample has none."""
    if clusters is None:
        ratios = _unclustered(u, v, order, paired=paired)
    else:
        ratios = _clustered(u, v, Clusters.of(clusters, u.numel(), v.numel(), paired=paired), order)
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([ratios(rows, generator) for rows in chunk_rows(resamples, u.numel() + v.numel())])


def chunk_rows(resamples: int, width: int) -> Iterator[int]:
    """Cut resamples of `width` numbers each into portions that fit in memory."""
    rows = max(1, _CHUNK // width)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def check_resampling(resamples: object, seed: object) -> tuple[int, int]:
    """Return resamples and seed as ints.

    Raises:
        ValueError: fewer than 2 resamples, or a negative seed.
        TypeError: resamples or seed not a whole number.
    """
    return check_whole(resamples, "resamples", least=2), check_whole(seed, "seed", least=0)


def check_paired(u: Tensor, v: Tensor, *, paired: bool) -> None:
    """Refuse pairs without a partner.

    Raises:
        ValueError: paired samples of unequal length.
        TypeError: `paired` is not True or False.
    """
    check_flag(paired, "paired")
    if paired and u.numel() != v.numel():
        raise ValueError(f"paired samples must have equal lengths, got {u.numel()} in u and {v.numel()} in v")


def least_resamples(level: float) -> int:
    """The fewest resamples whose smallest p-value, `1 / (1 + resamples)`, reaches a level.

    Examples:
        >>> least_resamples(0.05), least_resamples(0.001)
        (19, 999)
    """
    least = max(2, math.ceil(1 / level) - 2)
    while 1 / (1 + least) > level:
        least += 1
    return least


def bootstrap_violation_ratio(
    u: object,
    v: object,
    *,
    order: Order = 1,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    paired: bool = False,
    clusters: ClusterLabels = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the violation ratio.

    Resamples in which the two laws coincide have no ratio and are left out.

    Args:
        u: sample that should dominate, shape (n,); tensor, array or list.
        v: sample to be dominated, shape (m,).
        order: 1 or 2.
        confidence: coverage of the interval.
        resamples: how many times to draw.
        seed: of a generator of its own; the same seed gives the same interval.
        paired: resample the pairs (u_i, v_i) jointly, which keeps their dependence; needs n = m.
        clusters: labels of samples that belong together, such as prompts, drawn as wholes: an array of n
            labels if paired, else a tuple of n and m labels. None draws single pairs or samples.

    Returns:
        Lower and upper end; (nan, nan) where the laws coincide.

    Raises:
        ValueError: confidence outside (0, 1), too few resamples, another order, unequal lengths when paired, or a
            bad sample.
        TypeError: an argument of the wrong type.

    Source:
        Resampling for the violation ratio as in arXiv 2310.07132.

    Examples:
        >>> bootstrap_violation_ratio([5.0, 6.0, 7.0], [0.0, 1.0], resamples=50)
        (0.0, 0.0)
    """
    check_order(order)
    confidence = check_level(confidence, "confidence")
    one, two, _ = as_statistics(u, v)
    resamples, seed = check_resampling(resamples, seed)
    check_paired(one, two, paired=paired)
    ratios = bootstrap_ratios(one, two, order, resamples, seed, paired=paired, clusters=clusters)
    tail = (1.0 - confidence) / 2.0
    low, high = ratios.nanquantile(torch.tensor([tail, 1.0 - tail], dtype=ratios.dtype)).tolist()
    return low, high
