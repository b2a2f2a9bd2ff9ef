"""The win rate as a record: numbers with their intervals, cautions, and its JSON form."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from distal.errors import DataError, ServiceError
from distal.evaluation.files import write_atomically
from distal.evaluation.generation.outputs import json_bytes
from distal.evaluation.judging.questions import Judge, JudgedPair, Judgement, model_preference
from distal.evaluation.judging.statistics import (
    Bootstrap,
    LengthAdjusted,
    length_adjusted_win_rate,
    win_rate_interval,
)
from distal.evaluation.verdict import FEWEST_SAMPLES

__all__ = ["SCHEMA", "WinRate", "judgement_lines", "output_id", "win_rate"]

SCHEMA = "distal.winrate/1"
"""Name and version of the JSON form; the number rises when a key changes its meaning or goes away."""

_FEWEST_ASKED = 10
"""Questions after which a judge that always gave the same answer is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    """How often a judge prefers a model's answers to those of a baseline.

    Attributes:
        judge: what the judge is, without secrets.
        model: name of the model.
        baseline: name of what it is compared with.
        n: prompts.
        win_rate: mean credit of the prompts with a verdict, in [0, 1]: 1 for a win, 1/2 for a tie; over both orders
            the mean of both.
        interval: its bootstrap interval over prompts; None with fewer than two.
        confidence: of every interval.
        wins: prompts with a credit above 1/2.
        losses: prompts with a credit below 1/2.
        ties: prompts with a credit of 1/2, those with equal answers included.
        failed: prompts without a verdict in every order that was asked; in no other number.
        identical: prompts with equal answers, which nobody was asked about.
        order_agreement: share of prompts whose verdict is the same in both orders; None where one order was asked.
        first_preferred: mean preference for the answer shown first, over all verdicts; 1/2 for a judge without
            position bias when both orders are asked; None for judges that see no order.
        length_adjusted: the win rate at equal length by a model of our own; None where it has no meaning.
        length_controlled: AlpacaEval's; None where it was not asked for or cannot be had.
        notes: cautions.
        usage: requests, tokens and cost of this run; what was there already cost nothing.
        settings: options of the evaluation.
        versions: of the packages.
    """

    judge: Mapping[str, Any]
    model: str
    baseline: str
    n: int
    win_rate: float
    interval: tuple[float, float] | None
    confidence: float
    wins: int
    losses: int
    ties: int
    failed: int
    identical: int
    order_agreement: float | None
    first_preferred: float | None
    length_adjusted: LengthAdjusted | None
    length_controlled: Mapping[str, Any] | None
    notes: tuple[str, ...]
    usage: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with a `schema` version; what is undefined is None, never NaN."""
        return {"schema": SCHEMA} | asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The record that `to_dict` came from, possibly through JSON.

        Raises:
            DataError: another schema, or a missing key.
        """
        if content.get("schema") != SCHEMA:
            raise DataError(
                f"not a win rate of this version: its schema is {content.get('schema')!r}, expected {SCHEMA!r}"
            )
        try:
            values: dict[str, Any] = {field.name: content[field.name] for field in fields(cls)}
            adjusted = values["length_adjusted"]
            if adjusted is not None:
                own: dict[str, Any] = {**adjusted}
                own["interval"] = _pair(own["interval"])
                values["length_adjusted"] = LengthAdjusted(**own)
        except (KeyError, TypeError) as error:
            raise DataError(f"the win rate is incomplete: {error}; evaluate again to renew it") from error
        values["interval"], values["notes"] = _pair(values["interval"]), tuple(values["notes"])
        return cls(**values)

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, in one piece.

        Raises:
            OutputError: the file cannot be written.
        """
        return write_atomically(path, json_bytes(self.to_dict()))


def win_rate(
    judged: Sequence[JudgedPair],
    judge: Judge,
    *,
    names: tuple[str, str],
    bootstrap: Bootstrap | None = None,
    length_controlled: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
    **about: Mapping[str, Any],
) -> WinRate:
    """Count the verdicts and say how sure their mean is.

    Args:
        judged: all pairs.
        judge: who judged them.
        names: of the model and the baseline.
        bootstrap: how intervals are found.
        length_controlled: AlpacaEval's, where it is there.
        notes: cautions that are known already.
        **about: usage, settings, versions.

    Raises:
        ServiceError: not one pair has a verdict.
    """
    rated = [(one, credit) for one in judged if (credit := one.credit) is not None]
    if not rated:
        reasons = [judgement.reason for one in judged for _, judgement in one.orders if judgement.reason]
        raise ServiceError(
            f"the judge gave no verdict on any of {len(judged)} pairs: {reasons[0] if reasons else 'no pairs'}"
        )
    credits = [credit for _, credit in rated]
    verdicts = Counter(one.verdict for one in judged)
    bootstrap = bootstrap or Bootstrap()
    adjusted = None
    if any(len(one.pair.model) != len(one.pair.baseline) for one, _ in rated):
        adjusted = length_adjusted_win_rate(
            credits,
            [len(one.pair.model) for one, _ in rated],
            [len(one.pair.baseline) for one, _ in rated],
            bootstrap,
        )
    return WinRate(
        judge=judge.describe(),
        model=names[0],
        baseline=names[1],
        n=len(judged),
        win_rate=sum(credits) / len(credits),
        interval=win_rate_interval(credits, bootstrap),
        confidence=bootstrap.confidence,
        wins=verdicts["win"],
        losses=verdicts["loss"],
        ties=verdicts["tie"],
        failed=verdicts["failed"],
        identical=sum(one.identical for one in judged),
        order_agreement=_order_agreement(judged),
        first_preferred=_first_preferred(judged) if judge.keeps_order else None,
        length_adjusted=adjusted,
        length_controlled=length_controlled,
        notes=(*notes, *_cautions(judged, credits), *(_sameness(judged) if judge.sees_order else ())),
        usage=about.get("usage", {}),
        settings=about.get("settings", {}),
        versions=about.get("versions", {}),
    )


def judgement_lines(judged: Sequence[JudgedPair]) -> bytes:
    """Every pair as a line of JSON: prompt, both answers' ids, the verdict, and per order what the judge said."""
    lines = [json_line(_line(index, one)) for index, one in enumerate(judged)]
    return b"".join(lines)


def output_id(text: str) -> str:
    """Identity of an answer: the first 16 hexadecimal digits of the SHA-256 of its text.

    Examples:
        >>> output_id("")
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def json_line(content: Any) -> bytes:
    """One line of JSON in ASCII, so that no character of a model's breaks it in two."""
    return json.dumps(content, allow_nan=False).encode("ascii") + b"\n"


def _line(index: int, one: JudgedPair) -> dict[str, Any]:
    return {
        "index": index,
        "prompt": one.pair.prompt,
        "model_output": output_id(one.pair.model),
        "baseline_output": output_id(one.pair.baseline),
        "identical": one.identical,
        "verdict": one.verdict,
        "credit": one.credit,
        "orders": [
            {
                "first": "model" if model_first else "baseline",
                "verdict": _word(model_first, judgement),
                "preference": model_preference(model_first, judgement),
                "raw": judgement.raw,
                "reason": judgement.reason,
            }
            for model_first, judgement in one.orders
        ],
    }


def _word(model_first: bool, judgement: Judgement) -> str:
    value = model_preference(model_first, judgement)
    if value is None:
        return "failed"
    return "win" if value > 0.5 else "loss" if value < 0.5 else "tie"


def _order_agreement(judged: Sequence[JudgedPair]) -> float | None:
    words = [[_word(*order) for order in one.orders] for one in judged if len(one.orders) == 2]
    whole = [pair for pair in words if "failed" not in pair]
    return sum(first == second for first, second in whole) / len(whole) if whole else None


def _first_preferred(judged: Sequence[JudgedPair]) -> float | None:
    found = [judgement.preference for one in judged for _, judgement in one.orders]
    whole = [value for value in found if value is not None]
    return sum(whole) / len(whole) if whole else None


def _cautions(judged: Sequence[JudgedPair], credits: Sequence[float]) -> list[str]:
    """What a reader of the numbers should know."""
    notes: list[str] = []
    if len(credits) < FEWEST_SAMPLES:
        notes.append(f"only {len(credits)} prompts: below {FEWEST_SAMPLES}, the intervals are too narrow")
    failed = len(judged) - len(credits)
    if failed:
        notes.append(
            f"{failed} of {len(judged)} prompts have no verdict and are in no number; see judgements.jsonl"
        )
    if len(set(credits)) == 1 and len(credits) > 1:
        notes.append("every prompt has the same verdict, so that the bootstrap interval has no width")
    return notes


def _sameness(judged: Sequence[JudgedPair]) -> list[str]:
    """Whether the judge said the same to every question."""
    said = [(j.preference, j.raw) for one in judged for _, j in one.orders if j.preference is not None]
    if len(said) < _FEWEST_ASKED:
        return []
    preferences, replies = ({item[place] for item in said} for place in (0, 1))
    if len(replies) > 1 and len(preferences) > 1:
        return []
    if all(preference == 0.5 for preference in preferences):
        what = "found a tie"
    elif len(preferences) == 1 and len(replies) > 1:
        what = f"preferred the {'first' if said[0][0] > 0.5 else 'second'} answer"
    else:
        what = f"replied {said[0][1][:20]!r}"
    both = any(len(one.orders) == 2 for one in judged)
    hint = (
        "it does not tell the answers apart" if both else "ask both orders to see whether it tells them apart"
    )
    return [f"the judge {what} in all {len(said)} questions: {hint}"]


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (value[0], value[1])
