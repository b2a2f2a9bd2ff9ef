"""A small certificate of every evaluation during training, kept beside the run as JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distal.evaluation.dominance import certify_rows
from distal.evaluation.records import DominanceCertificate
from distal.evaluation.scored import RowFacts, ScoredRows
from distal.training.evaluation import Evaluation
from distal.training.health.log import HealthLog, read_records

__all__ = ["EVALUATIONS_FILE", "EvaluationLog", "Shown", "evaluation_records", "summary"]

EVALUATIONS_FILE = "evaluations.jsonl"
"""Name of the file in the run folder."""

EVALUATION_SCHEMA = "distal.evaluation/1"

_RESAMPLES = 200
"""Enough for an interval on the way; the certificate at the end takes more."""

_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class _Evaluated(Protocol):
    """A trainer that keeps its last evaluations."""

    @property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """The last evaluation of each set, by the prefix of its metrics."""
        ...


Shown = Callable[[str, int, DominanceCertificate], None]
"""Told of every evaluation: the prefix of its metrics, the step, the certificate."""


class EvaluationLog(TrainerCallback):
    """Makes a certificate of every evaluation and writes it into `evaluations.jsonl`.

    The scores are those that the trainer has just computed, so that nothing is scored twice. The first rank writes. A
    resumed run goes on with the file where its checkpoint was made, so that no evaluation stands there twice.

    Args:
        trainer: whose evaluations are written down; add the callback to it with `trainer.add_callback`.
        shown: also told of every certificate, as for figures.
        resamples: of the bootstrap, at least 39.

    Examples:
        >>> EvaluationLog.__name__  # trainer.add_callback(EvaluationLog(trainer))
        'EvaluationLog'
    """

    def __init__(
        self, trainer: _Evaluated, shown: Sequence[Shown] = (), *, resamples: int = _RESAMPLES
    ) -> None:
        self._trainer, self._shown, self._resamples = trainer, shown, resamples
        self._log: HealthLog | None = None
        self._seen: dict[str, tuple[int, Evaluation]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the file; a resumed run keeps what it says of the steps before."""
        self._seen.clear()
        if state.is_world_process_zero:
            self._log = HealthLog(Path(str(args.output_dir)) / EVALUATIONS_FILE)
            self._log.begin(state.global_step or None)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write down the sets that have been evaluated since."""
        if self._log is None:
            return
        for name, found in self._trainer.evaluations.items():
            step, last = self._seen.get(name, (-1, None))
            if found is last or step == state.global_step:
                continue
            self._seen[name] = (state.global_step, found)
            certificate = certify_rows(scored(found), resamples=self._resamples)
            self._log.append(
                {
                    "schema": EVALUATION_SCHEMA,
                    "step": state.global_step,
                    "epoch": state.epoch,
                    "name": name,
                    **summary(certificate),
                    "metrics": found.metrics,
                }
            )
            for show in self._shown:
                show(name, state.global_step, certificate)


def scored(found: Evaluation) -> ScoredRows:
    """The rows of an evaluation as certificates take them."""
    batch, data = found.batch, found.dataset
    return ScoredRows.of(
        data,
        RowFacts.of(data),
        np.asarray(batch.policy.double().cpu().numpy()),
        np.asarray(batch.reference.double().cpu().numpy()),
    )


def summary(certificate: DominanceCertificate) -> dict[str, Any]:
    """What an evaluation on the way keeps of a certificate: plain values for JSON, undefined ones null."""
    curves = certificate.curves
    at = [min(range(len(curves.levels)), key=lambda i: abs(curves.levels[i] - level)) for level in _LEVELS]
    names = (
        "kind",
        "n_preferred",
        "n_other",
        "samples",
        "violation_ratio",
        "violation_ratio_ci",
        "violated_share",
        "mean_gap",
        "mean_gap_ci",
        "auc",
        "auc_ci",
        "accuracy",
        "accuracy_ci",
        "confidence",
        "threshold",
        "resamples",
    )
    content = certificate.to_dict()
    return {
        **{name: content[name] for name in names},
        "p_value": None if certificate.test is None else certificate.test.p_value,
        "decision": certificate.decision,
        "verdict": certificate.verdict,
        "intervals_reliable": content["intervals_reliable"],
        "levels": list(_LEVELS),
        "preferred_quantiles": [curves.u[i] for i in at],
        "other_quantiles": [curves.v[i] for i in at],
        "gap_low": [curves.gap_low[i] for i in at],
        "gap_high": [curves.gap_high[i] for i in at],
    }


def evaluation_records(folder: str | Path) -> list[dict[str, Any]]:
    """The records of a run's `evaluations.jsonl`, in order; none where there is no file.

    Args:
        folder: of the run.
    """
    return read_records(Path(folder) / EVALUATIONS_FILE)
