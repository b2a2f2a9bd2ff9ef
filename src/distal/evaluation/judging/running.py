"""Asking a judge about every pair, in both orders, and keeping each judgement at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Literal

from distal.evaluation.journal import Journal, content_key
from distal.evaluation.judging.questions import Judge, JudgedPair, Judgement, Pair, Question

__all__ = ["Orders", "judge_pairs"]

Orders = Literal["both", "model_first", "baseline_first"]


def judge_pairs(
    pairs: Sequence[Pair],
    judge: Judge,
    *,
    orders: Orders = "both",
    journal: Journal | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> list[JudgedPair]:
    """Judgements of all pairs, from the journal where they are there already.

    Equal answers are ties and not asked about. A judge that grades each answer on its own is asked once per pair.
    Questions without a verdict are not kept: another run asks them again.

    Args:
        pairs: what to judge.
        judge: who judges.
        orders: in which orders a judge sees the answers that is shown both.
        journal: where judgements are kept and looked up; None for nowhere.
        progress: whether to show a progress bar.
        tell: called with remarks for people.

    Raises:
        ServiceError: the judge is out of reach, or its budget is spent; what it said is kept.
    """
    questions = [
        question
        for index, pair in enumerate(pairs)
        if pair.model != pair.baseline
        for question in _questions(index, pair, _firsts(judge, orders))
    ]
    described = judge.describe() if journal is not None and judge.stored else {}
    keys = {question: _key(described, question) for question in questions} if described else {}
    found: dict[Question, Judgement] = {}
    if journal is not None:
        for question, key in keys.items():
            if (value := journal.get(key)) is not None:
                found[question] = Judgement(**value)
    if found:
        tell(
            f"{len(found):,} of {len(questions):,} judgements are there already, in {journal.path if journal else ''}"
        )
    lock = threading.Lock()

    def keep(question: Question, judgement: Judgement) -> None:
        if journal is not None and keys and judgement.preference is not None:
            key = keys[question]
            judgement = Judgement(**journal.put({key: asdict(judgement)})[key])
        with lock:
            found[question] = judgement

    left = [question for question in questions if question not in found]
    if left:
        judge.run(left, keep, progress=progress)
    by_pair: dict[int, list[tuple[bool, Judgement]]] = {}
    for question in questions:
        by_pair.setdefault(question.pair, []).append((question.model_first, found[question]))
    return [JudgedPair(pair, tuple(by_pair.get(index, ()))) for index, pair in enumerate(pairs)]


def _firsts(judge: Judge, orders: Orders) -> tuple[bool, ...]:
    """Whether the model's answer comes first, for each question about a pair."""
    if not judge.sees_order:
        return (True,)
    return {"both": (False, True), "model_first": (True,), "baseline_first": (False,)}[orders]


def _questions(index: int, pair: Pair, firsts: Sequence[bool]) -> list[Question]:
    return [
        Question(
            index,
            pair.prompt,
            pair.model if model_first else pair.baseline,
            pair.baseline if model_first else pair.model,
            model_first,
        )
        for model_first in firsts
    ]


def _key(described: dict[str, object], question: Question) -> str:
    """What the judgement depends on: the judge, the prompt and both answers in their order, and not whose they are."""
    return content_key(
        version=1, judge=described, prompt=question.prompt, first=question.first, second=question.second
    )
