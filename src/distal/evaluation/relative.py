"""Runs beside each other on the same rows: does the gap of one dominate the gap of another?

The gap law of a run is, for paired data, that of its pair margins (reward of chosen minus reward of rejected), and
for unpaired data that of its quantile gaps `Q_U(T) - Q_V(T)`, T uniform: how far preferred rewards are above the
others. Run A is compared with run B by the violation ratio `eps(A, B)` of the two gap laws, rows being resampled
jointly for both.

- absolute: the null `eps(A, B) >= threshold`; its rejection says that A almost dominates B.
- relative: the null `eps(A, B) >= 1/2`; since `eps(A, B) + eps(B, A) = 1`, its rejection says that A is nearer to
  dominating B than B to dominating A.

Both are corrected by Holm's method over all ordered pairs of runs. Source: arXiv 2310.07132 (absolute and relative
tests between several systems).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distal.errors import ConfigError, DataError
from distal.evaluation.comparing import LEVELS, check_options
from distal.evaluation.intervals import (
    contrast_p_value,
    expanded_tail,
    percentile_interval,
    ratio_interval,
    ratio_of,
)
from distal.evaluation.laws import Frame, Statistics, concatenated, merged_cells, of_weights
from distal.evaluation.parts import RunComparison, RunDecision
from distal.evaluation.resampling import Groups, Plan, bootstrap, observed, row_counts
from distal.evaluation.scored import ScoredRows
from distal.evaluation.slices import holm
from distal.evaluation.statistics import FloatArray
from distal.evaluation.verdict import FEWEST_SAMPLES, format_interval, format_ratio

__all__ = ["compare_runs"]

_EQUAL = 0.5


def compare_runs(
    runs: Mapping[str, ScoredRows],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    threshold: float = 0.25,
    by_prompt: bool = True,
) -> tuple[RunComparison, ...]:
    """Compare every run with every other, in both directions.

    Args:
        runs: at least two runs by name, all on the same rows.
        confidence: of the intervals; tests are at level `1 - confidence`.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        threshold: largest violation ratio that counts as almost dominance.
        by_prompt: whether rows of one prompt are resampled together.

    Returns:
        One comparison per ordered pair of runs.

    Raises:
        ConfigError: fewer than two runs, or an option out of range.
        DataError: the runs were scored on different rows, or read them with different tokenizers.
    """
    check_options(confidence=confidence, resamples=resamples, seed=seed, threshold=threshold)
    _check_same_rows(runs)
    asked = _Asked(confidence, resamples, seed, threshold, by_prompt)
    found: dict[tuple[str, str], RunComparison] = {}
    for one, two in itertools.combinations(runs, 2):
        found[one, two], found[two, one] = _both_ways(one, two, runs[one], runs[two], asked)
    ordered = [found[pair] for pair in itertools.permutations(runs, 2)]
    return _corrected(ordered)


@dataclass(frozen=True, slots=True)
class _Asked:
    confidence: float
    resamples: int
    seed: int
    threshold: float
    by_prompt: bool


def _check_same_rows(runs: Mapping[str, ScoredRows]) -> None:
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs, got {len(runs)}")
    (first, rows), *others = runs.items()
    for name, other in others:
        if other.kind != rows.kind or other.policy.shape != rows.policy.shape:
            raise DataError(
                f"the runs {first} and {name} were scored on different data ({rows.policy.size} {rows.kind} and "
                f"{other.policy.size} {other.kind} rows); score both on the same file"
            )
        if other.fingerprint != rows.fingerprint:
            raise DataError(
                f"the runs {first} and {name} do not read the same tokens: their data or their tokenizers differ. "
                "Scores are sums over tokens, so they can be compared on the same rows with the same tokenizer only"
            )


def _both_ways(
    one: str, two: str, a: ScoredRows, b: ScoredRows, asked: _Asked
) -> tuple[RunComparison, RunComparison]:
    """Does a dominate b, and does b dominate a, from the same resamples."""
    gap: Literal["pair_margins", "quantile_gaps"] = "pair_margins" if a.kind == "paired" else "quantile_gaps"
    seen, draws, independent = (_of_pairs if a.kind == "paired" else _of_samples)(a, b, asked)
    same = _coincide(a, b)

    def comparison(run: str, other: str, seen: Statistics, draws: Statistics) -> RunComparison:
        low, high = percentile_interval(draws.mean_gap, expanded_tail(asked.confidence, independent))
        return _judged(
            RunComparison(
                run=run,
                other=other,
                gap=gap,
                samples=independent,
                decision="no_difference",
                verdict="",
                violation_ratio=None,
                violation_ratio_ci=None,
                mean_gap_difference=0.0 if same else float(seen.mean_gap[0]),
                mean_gap_difference_ci=(0.0, 0.0) if same else (float(low), float(high)),
                p_value=None,
                p_adjusted=None,
                p_relative=None,
                p_relative_adjusted=None,
                threshold=asked.threshold,
                confidence=asked.confidence,
            ),
            None if same else (seen, draws),
        )

    return comparison(one, two, seen, draws), comparison(two, one, _mirrored(seen), _mirrored(draws))


def _judged(blank: RunComparison, found: tuple[Statistics, Statistics] | None) -> RunComparison:
    """The comparison with its ratio and tests; as it is where the gap laws coincide."""
    ratio = np.empty(0) if found is None else ratio_of(found[0].wrong, found[0].right)
    if found is None or not ratio.size:
        return blank
    seen, draws = found
    interval = ratio_interval(seen, draws, confidence=blank.confidence, independent=blank.samples)
    gap_low, _ = percentile_interval(draws.gap, expanded_tail(blank.confidence, blank.samples))
    return replace(
        blank,
        # What it is if the corrected test does not object.
        decision="dominance" if float(gap_low.min()) > 0 else "almost_dominance",
        violation_ratio=float(ratio[0]),
        violation_ratio_ci=interval,
        p_value=contrast_p_value(seen, draws, blank.threshold),
        p_relative=contrast_p_value(seen, draws, _EQUAL),
    )


def _coincide(a: ScoredRows, b: ScoredRows) -> bool:
    """Whether both runs give every row the same reward, to rounding."""
    difference = (a.policy - a.reference) - (b.policy - b.reference)
    return not difference.any() or a.is_noise(difference)


def _mirrored(found: Statistics) -> Statistics:
    """The same with the sides exchanged."""
    return found._replace(
        mean_gap=-found.mean_gap,
        auc=1 - found.auc,
        gap=-found.gap,
        lag=-found.lag,
        wrong=found.right,
        right=found.wrong,
    )


def _of_pairs(a: ScoredRows, b: ScoredRows, asked: _Asked) -> tuple[Statistics, Statistics, int]:
    """Laws of pair margins, pairs being drawn jointly for both runs."""
    u, v = (run.rewards[0::2] - run.rewards[1::2] for run in (a, b))
    groups = Groups.of(a.clusters(), u.size, v.size, paired=True) if asked.by_prompt else None
    frame, plan = Frame.of(u, v, LEVELS, paired=False), Plan(paired=True, groups=groups)
    independent = u.size if groups is None else groups.independent
    return observed(frame, plan), bootstrap(frame, plan, asked.resamples, asked.seed), independent


def _of_samples(a: ScoredRows, b: ScoredRows, asked: _Asked) -> tuple[Statistics, Statistics, int]:
    """Laws of quantile gaps, rows being drawn jointly for both runs."""
    sides = [(run.rewards[run.desirable], run.rewards[~run.desirable]) for run in (a, b)]
    n, m = sides[0][0].size, sides[0][1].size
    groups = Groups.of(a.clusters(), n, m, paired=False) if asked.by_prompt else None
    independent = min(n, m) if groups is None else groups.independent
    seen = _gap_laws(sides, np.ones(n, dtype=np.intp), np.ones(m, dtype=np.intp), None)
    parts = [
        _gap_laws(sides, on_u, on_v, seen[1])[0]
        for on_u, on_v in row_counts(n, m, Plan(paired=False, groups=groups), asked.resamples, asked.seed)
    ]
    return seen[0], concatenated(parts), independent


def _gap_laws(
    sides: list[tuple[FloatArray, FloatArray]],
    on_u: NDArray[np.intp],
    on_v: NDArray[np.intp],
    points: FloatArray | None,
) -> tuple[Statistics, FloatArray]:
    """Statistics of two laws of quantile gaps under one reweighting of the rows, and the points they are seen at."""
    laws = [_gap_law(u, v, on_u, on_v) for u, v in sides]
    (x, x_mass), (y, y_mass) = laws
    frame = Frame.of(x, y, LEVELS, paired=False, points=points)
    order = frame.pair.u_order, frame.pair.v_order
    found = of_weights(frame, x_mass[order[0]][None], y_mass[order[1]][None])
    return found, frame.points


def _gap_law(
    u: FloatArray, v: FloatArray, on_u: NDArray[np.intp], on_v: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """Values and masses of the quantile gap of two weighted samples."""
    u_order, v_order = u.argsort(kind="stable"), v.argsort(kind="stable")
    u_rank, v_rank, mass = merged_cells(on_u[u_order], on_v[v_order])
    return u[u_order][u_rank] - v[v_order][v_rank], mass


def _corrected(comparisons: list[RunComparison]) -> tuple[RunComparison, ...]:
    """Adjusted p-values, and the decisions that follow from them."""
    absolute = _adjusted([one.p_value for one in comparisons])
    relative = _adjusted([one.p_relative for one in comparisons])
    return tuple(
        _decided(replace(one, p_adjusted=p, p_relative_adjusted=q))
        for one, p, q in zip(comparisons, absolute, relative, strict=True)
    )


def _adjusted(p_values: list[float | None]) -> list[float | None]:
    """Holm's correction of those that are there."""
    tested = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    for i, p in zip(tested, holm([p for p in p_values if p is not None]), strict=True):
        adjusted[i] = p
    return adjusted


def _decided(one: RunComparison) -> RunComparison:
    """Decision and sentence."""
    if one.violation_ratio is None:
        words = (
            f"No difference: {one.run} and {one.other} have the same gaps to rounding, so nothing is tested."
        )
        return replace(one, verdict=words)
    level, interval = 1 - one.confidence, one.violation_ratio_ci
    numbers = f"violation ratio {format_ratio(one.violation_ratio)}, interval {format_interval(interval)}"
    decision: RunDecision = "not_supported"
    if one.samples < FEWEST_SAMPLES:
        words = f"Not supported: {one.samples} samples are too few to tell, {FEWEST_SAMPLES} are needed"
    elif one.p_adjusted is not None and one.p_adjusted <= level:
        decision = one.decision
        strength = "dominate" if decision == "dominance" else "almost dominate"
        words = f"The gaps of {one.run} {strength} those of {one.other}"
    elif one.p_relative_adjusted is not None and one.p_relative_adjusted <= level:
        words = f"Not supported; {one.run} is nearer to dominating {one.other} than the reverse"
    else:
        words = f"Not supported: the gaps of {one.run} are not shown to dominate those of {one.other}"
    return replace(one, decision=decision, verdict=f"{words}; {numbers}.")
