"""Win rates: a judge compares a model's answers with a baseline's, and every judgement is kept."""

from __future__ import annotations

from distal.evaluation.judging.prompts import DEFAULT_PROMPT
from distal.evaluation.judging.questions import Judge, JudgedPair, Judgement, Pair, Question, match_outputs
from distal.evaluation.judging.record import SCHEMA, WinRate, judgement_lines, output_id, win_rate
from distal.evaluation.judging.rewards import FunctionJudge, RewardModelJudge
from distal.evaluation.judging.running import judge_pairs
from distal.evaluation.judging.server import ServerJudge, ServerJudgeOptions
from distal.evaluation.judging.statistics import (
    Bootstrap,
    LengthAdjusted,
    length_adjusted_win_rate,
    win_rate_interval,
)

__all__ = [
    "DEFAULT_PROMPT",
    "SCHEMA",
    "Bootstrap",
    "FunctionJudge",
    "Judge",
    "JudgedPair",
    "Judgement",
    "LengthAdjusted",
    "Pair",
    "Question",
    "RewardModelJudge",
    "ServerJudge",
    "ServerJudgeOptions",
    "WinRate",
    "judge_pairs",
    "judgement_lines",
    "length_adjusted_win_rate",
    "match_outputs",
    "output_id",
    "win_rate",
    "win_rate_interval",
]
