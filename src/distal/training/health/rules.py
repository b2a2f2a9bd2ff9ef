"""The guards: each looks at the measures of the last steps and says whether they are a finding, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from distal.training.health.findings import Finding
from distal.training.health.measures import falling_pairs, theil_sen
from distal.training.health.thresholds import HealthThresholds

__all__ = ["History", "judge"]

# A series that goes nowhere falls in half of its pairs of steps; one that falls in three of four has a trend.
_STEADY = 0.75


@dataclass(frozen=True)
class History:
    """What the guards look at.

    Attributes:
        records: of the last steps, at most `window`, the present one last.
        full: whether there are as many as the window has.
        start: the record of step 0, with what the probe measured then; empty where there is none.
    """

    records: Sequence[Mapping[str, Any]]
    full: bool
    start: Mapping[str, Any]

    @property
    def now(self) -> Mapping[str, Any]:
        """The present record."""
        return self.records[-1]

    def known(self, name: str) -> list[float]:
        """Values of a measure in the window, where it is defined."""
        return [record[name] for record in self.records if record.get(name) is not None]


def judge(history: History, thresholds: HealthThresholds) -> list[Finding]:
    """The findings that hold at the present step, in a fixed order."""
    found: list[Finding] = []
    for guard, rule in _RULES.items():
        limit = getattr(thresholds, guard)
        finding = None if limit is None else rule(history, limit)
        if finding is not None:
            found.append(finding)
    return found


def _sort_group_bias(history: History, limit: float) -> Finding | None:
    now = history.now
    if now.get("sort_group") == 1:
        cost, bias = history.known("group_cost"), history.known("group_bias")
        share = fmean(bias) / fmean(cost) if bias and fmean(cost) > 0 else None
        return Finding(
            guard="sort_group_bias",
            message="sort groups hold one sample, so that nothing is sorted: this is a loss of single samples (paired "
            "AOT becomes DPO)",
            advice="Leave sort_group unset and set global_batch_size to what should be sorted together; memory is set "
            "by micro_batch_size alone",
            value=share,
            threshold=limit,
        )
    if not history.full:
        return None
    cost, bias = history.known("group_cost"), history.known("group_bias")
    if not bias or fmean(cost) <= 0:
        return None
    share = fmean(bias) / fmean(cost)
    if share <= limit:
        return None
    size = round(fmean(history.known("sort_group")))
    needed = size * share / limit
    return Finding(
        guard="sort_group_bias",
        message=f"in sort groups of {size} about {share:.0%} of the loss ({fmean(bias):.3g} of {fmean(cost):.3g}, "
        f"estimated by halving the batch) is an artefact of their size",
        advice=f"It falls like 1/size: about {needed:.0f} samples would bring it to {limit:.0%}. Raise "
        "global_batch_size (memory is set by micro_batch_size alone) and leave sort_group unset",
        value=share,
        threshold=limit,
    )


def _effective_share(history: History, limit: float) -> Finding | None:
    shares = history.known("effective_share")
    if not history.full or fmean(shares) >= limit:
        return None
    value = fmean(shares)
    if value == 0:
        message = "no sample has a coefficient: the objective is met with its margin, and nothing is learnt"
        advice = "Stop here, or raise the margin"
    else:
        rows = ", ".join(str(row) for row in history.now.get("heaviest_rows", []))
        message = (
            f"few samples carry the gradient: as many as {value:.1%} of the batch would, equally weighted (heaviest "
            f"rows of this step: {rows})"
        )
        advice = (
            "Look at these rows. If they are sound, a larger global_batch_size, a smaller beta (logistic) or a "
            "larger margin spreads the gradient"
        )
    return Finding(guard="effective_share", message=message, advice=advice, value=value, threshold=limit)


def _reward_fall(history: History, limit: float) -> Finding | None:
    if not history.full:
        return None
    series = [history.known(name) for name in ("reward_chosen", "reward_rejected")]
    if any(len(values) < len(history.records) for values in series):
        return None
    falls = [-theil_sen(values) * (len(values) - 1) for values in series]
    if min(falls) <= limit or min(falling_pairs(values) for values in series) < _STEADY:
        return None
    now = history.now
    return Finding(
        guard="reward_fall",
        message=f"both mean rewards fall: within {len(history.records)} steps that of preferred responses by "
        f"{falls[0]:.3g} nats (now {now['reward_chosen']:.3g}), that of the others by {falls[1]:.3g} nats (now "
        f"{now['reward_rejected']:.3g})",
        advice="The policy takes probability from the very responses that it should prefer; where it goes, the data "
        "does not say. Lower learning_rate, raise beta, or hold on to the preferred texts with objective: mix and a "
        "part sft",
        value=min(falls),
        threshold=limit,
    )


def _surprise_ratio(history: History, limit: float) -> Finding | None:
    ratios = history.known("surprise_ratio")
    if not history.full or not ratios or median(ratios) >= limit:
        return None
    value = median(ratios)
    return Finding(
        guard="surprise_ratio",
        message=f"preferred completions cost the policy {value:.0%} of the nats per token that they cost the "
        "reference: it is becoming certain of the training texts, and its entropy is likely to collapse",
        advice="Fewer epochs, a lower learning_rate or a larger beta keep it closer to the reference; "
        "health: {probe_every: N} measures the entropy itself",
        value=value,
        threshold=limit,
    )


def _length_correlation(history: History, limit: float) -> Finding | None:
    correlations = history.known("length_correlation")
    if not history.full or len(correlations) < len(history.records) / 2 or abs(fmean(correlations)) <= limit:
        return None
    value = fmean(correlations)
    which = "longer" if value > 0 else "shorter"
    return Finding(
        guard="length_correlation",
        message=f"rewards follow length: among responses of one class the {which} ones have the higher reward (rank "
        f"correlation {value:+.2f}), so that generations are likely to grow {which}",
        advice="Balance the lengths of preferred and other responses in the data, or keep the policy closer to the "
        "reference (lower learning_rate, larger beta); health: {probe_every: N, probe_new_tokens: M} measures "
        "generations",
        value=value,
        threshold=limit,
    )


def _entropy_ratio(history: History, limit: float) -> Finding | None:
    now, start = history.now.get("probe_entropy"), history.start.get("probe_entropy")
    if now is None or not start or now / start >= limit:
        return None
    return Finding(
        guard="entropy_ratio",
        message=f"token entropy on the probe set has fallen to {now:.3g} nats, {now / start:.0%} of what it was",
        advice="The policy is losing variety. Lower learning_rate, raise beta, or stop earlier",
        value=now / start,
        threshold=limit,
    )


def _length_ratio(history: History, limit: float) -> Finding | None:
    now, start = history.now.get("probe_length"), history.start.get("probe_length")
    if now is None or not start or limit <= now / start <= 1 / limit:
        return None
    return Finding(
        guard="length_ratio",
        message=f"greedy answers to the probe prompts have {now:.3g} tokens on average, {start:.3g} at the start",
        advice="Length is being learnt along with preference. Balance the lengths in the data, lower learning_rate, "
        "or stop earlier",
        value=now / start,
        threshold=limit,
    )


_RULES: dict[str, Callable[[History, float], Finding | None]] = {
    "sort_group_bias": _sort_group_bias,
    "effective_share": _effective_share,
    "reward_fall": _reward_fall,
    "surprise_ratio": _surprise_ratio,
    "length_correlation": _length_correlation,
    "entropy_ratio": _entropy_ratio,
    "length_ratio": _length_ratio,
}
"""Each guard under the name of its threshold."""
