"""What a certificate means, in sentences that a newcomer understands and an expert accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distal.evaluation import FEWEST_SAMPLES, format_ratio
from distal.report.page.certificates import Certificate
from distal.report.page.run import Run

__all__ = ["Headline", "caution", "comparability", "headline", "percent", "signed"]

EXPLANATION = (
    "A reward is the log-probability of a response under the aligned model minus that under its reference: how much "
    "more likely alignment has made it, in nats. Sort the rewards of all preferred responses, and those of all others: "
    "if the preferred one is the higher at every rank, preferred responses dominate (first-order stochastic dominance)."
)


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A verdict in words.

    Attributes:
        tone: `good`, `fair`, `poor` or `none`, for colour; the words say the same.
        title: what dominates what, in a few words.
        sentence: with which confidence, and on which rows.
    """

    tone: str
    title: str
    sentence: str


def headline(certificate: Certificate | None) -> Headline:
    """What a certificate says, first of all."""
    if certificate is None:
        return Headline(
            tone="none",
            title="No dominance certificate",
            sentence="Whether preferred responses dominate the others on held-out rows is not known.",
        )
    if certificate.decision == "dominance":
        return Headline(
            tone="good",
            title="Preferred responses dominate the others",
            sentence=f"On {certificate.held_out}, rewards of preferred responses exceed those of the others at every "
            f"quantile level from 1 % to 99 %, with {percent(certificate.confidence)} confidence.",
        )
    if certificate.decision == "almost_dominance":
        return Headline(
            tone="fair",
            title="Preferred responses almost dominate the others",
            sentence=f"On {certificate.held_out}, {_levels(certificate)}; what falls short makes up "
            f"{_shortfall(certificate)}.",
        )
    if certificate.decision == "undefined":
        reason = certificate.undefined_reason or "both sides have the same rewards"
        return Headline(
            tone="none",
            title="Dominance is undefined",
            sentence=f"On {certificate.held_out}, {reason}: the model ranks nothing differently from its reference.",
        )
    if certificate.decision is None:
        return Headline(
            tone="none",
            title="The certificate states no decision",
            sentence=f"{certificate.file} can be read in part only; its numbers stand below.",
        )
    return _not_supported(certificate)


def _not_supported(certificate: Certificate) -> Headline:
    title, tone = "Dominance is not supported", "poor"
    if certificate.too_few:
        sentence = (
            f"{certificate.samples} samples on a side are too few to tell; {FEWEST_SAMPLES} are needed. "
            f"The evaluation used {certificate.held_out}."
        )
    elif certificate.reversed:
        title = "The other responses almost dominate the preferred ones"
        sentence = (
            f"On {certificate.held_out}, it is the wrong way round: what falls short makes up "
            f"{_shortfall(certificate)}."
        )
    else:
        sentence = (
            f"On {certificate.held_out}, even almost dominance cannot be claimed with "
            f"{percent(certificate.confidence)} confidence: {_levels(certificate)}; what falls short makes up "
            f"{_shortfall(certificate)}."
        )
    return Headline(tone=tone, title=title, sentence=sentence)


def _levels(certificate: Certificate) -> str:
    """At how many levels the preferred side is surely the higher."""
    curves = certificate.curves
    if curves is None:
        return "the file holds no quantile curves"
    return (
        f"preferred rewards are the higher at {curves.levels_above} of {len(curves.levels)} quantile levels "
        f"({percent(certificate.confidence)} confidence at each)"
    )


def _shortfall(certificate: Certificate) -> str:
    """The violation ratio in a clause that says what it is."""
    ratio, interval = certificate.ratio, certificate.ratio_ci
    shown = "an unknown share" if ratio is None else format_ratio(ratio)
    bounds = (
        "" if interval is None else f"; interval {format_ratio(interval[0])} to {format_ratio(interval[1])}"
    )
    return (
        f"{shown} of the squared difference (violation ratio{bounds}; almost dominance needs all of it below "
        f"{certificate.threshold:g})"
    )


def comparability(runs: Sequence[Run]) -> list[str]:
    """Why the numbers of several runs cannot simply be set against each other; nothing where they can."""
    cautions: list[str] = []
    held_out = {_held_out(run) for run in runs if run.config}
    sizes = {(c.paired, c.n_preferred, c.n_other) for run in runs if (c := run.certificate) is not None}
    if len(held_out) > 1:
        named = "; ".join(sorted(held_out))
        cautions.append(
            f"The runs were evaluated on different data ({named}): their gaps and rates are not comparable."
        )
    elif len(sizes) > 1:
        cautions.append(
            "The runs were evaluated on different numbers of held-out rows: their gaps and rates are not comparable."
        )
    bases = {str(run.config.get("reference") or run.config.get("model")) for run in runs if run.config}
    if len(bases) > 1:
        cautions.append(
            f"Rewards are measured against different references ({', '.join(sorted(bases))}): gaps in nats are not "
            "comparable."
        )
    unknown = [run.name for run in runs if not run.config]
    if unknown and len(runs) > 1:
        cautions.append(
            f"No configuration is known of {', '.join(unknown)}: whether data and reference agree is not either."
        )
    return cautions


def _held_out(run: Run) -> str:
    """Where a run's held-out rows come from, as its options say."""
    options = run.config
    names = (
        ["eval_data", "eval_split"]
        if options.get("eval_data")
        else ["data", "eval_split", "eval_size", "seed"]
    )
    given = [f"{name}: {options[name]}" for name in names if options.get(name) is not None]
    return ", ".join(given).removeprefix("eval_data: ")


def caution(certificate: Certificate) -> list[str]:
    """The notes of a certificate as sentences."""
    return [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in certificate.notes]


def percent(share: float) -> str:
    """A share in per cent: 0.95 becomes '95 %'."""
    return f"{100 * share:g} %"


def signed(value: float) -> str:
    """A difference with its sign, three decimals, a true minus.

    Examples:
        >>> signed(-0.25), signed(1.0)
        ('−0.250', '+1.000')
    """
    return f"{value:+.3f}".replace("-", "\u2212")
