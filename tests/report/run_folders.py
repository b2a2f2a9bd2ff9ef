"""Folders as runs leave them, small and with known content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

from distal.evaluation import DominanceCertificate, dominance_certificate

HOSTILE = (
    '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
    "<a href='javascript:window.hacked=1'>x</a> <!--<script> ${7*7} {{7*7}} \u202e\u0000\u2028 &lt;"
)
"""A text that tries to be more than a text."""


def certificate(n: int = 60, *, shift: float = 1.5, seed: int = 0) -> DominanceCertificate:
    """A certificate of random rewards; `shift` decides who dominates."""
    random = Random(seed)
    preferred = [random.gauss(shift, 1.0) for _ in range(n)]
    other = [random.gauss(0.0, 1.0) for _ in range(n)]
    return dominance_certificate(preferred, other, paired=True, resamples=50)


def write_json(path: Path, content: object) -> Path:
    """A JSON file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    """A file of JSON lines, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_run(
    folder: Path, *, objective: str = "aot", options: Mapping[str, Any] | None = None, **law: Any
) -> Path:
    """What `distal align` leaves, without the model: certificate, state, options, health, log, card."""
    folder.mkdir(parents=True)
    certificate(**law).save(folder / "dominance.json")
    write_json(
        folder / "run.json",
        {
            "state": "finished",
            "command": "distal align",
            "steps": 30,
            "versions": {"distal": "0", "torch": "2"},
        },
    )
    config = {
        "model": "base",
        "data": "train.jsonl",
        "eval_data": "held_out.jsonl",
        "objective": objective,
        "seed": 0,
    }
    (folder / "distal.yaml").write_text(yaml.safe_dump(config | dict(options or {})), encoding="utf-8")
    write_lines(folder / "health.jsonl", [{"step": step} for step in range(1, 31)])
    write_json(folder / "checkpoint-20" / "trainer_state.json", {"log_history": []})
    write_json(folder / "checkpoint-30" / "trainer_state.json", {"log_history": log_history(30)})
    (folder / "README.md").write_text(
        "# card\n\nData, as read:\n\n```\ntrain.jsonl: 9 rows read\n```\n", encoding="utf-8"
    )
    return folder


def log_history(steps: int) -> list[dict[str, Any]]:
    """A Trainer's log: one entry per step, an evaluation every ten."""
    entries: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        entries.append(
            {
                "step": step,
                "epoch": step / 10,
                "loss": 1 / step,
                "rewards/chosen": step / 10,
                "rewards/rejected": 0.0,
            }
        )
        if step % 10 == 0:
            entries.append({"step": step, "eval_loss": 2 / step, "eval_runtime": 3.0})
    return entries


def generations(texts: Sequence[tuple[str, str | None]], *, source: str = "set") -> list[dict[str, Any]]:
    """AlpacaEval's list of outputs from instructions and texts."""
    return [{"instruction": i, "output": o, "generator": "m", "dataset": source} for i, o in texts]


def add_evaluations(run: Path, *, n: int = 30, words: int = 12, seed: int = 0) -> Path:
    """Everything that is evaluated after training: generations, judgements, a win rate and benchmarks."""
    random, folder = Random(seed), run / "evaluation"

    def text() -> str:
        return " ".join(f"word{random.randrange(999)}" for _ in range(random.randrange(2, words)))

    prompts = [f"question {place}" for place in range(n)]
    sources = ["helpful" if place % 3 else "koala" for place in range(n)]
    rows: list[dict[str, str]] = []
    for name in ("before", "after"):
        rows = [
            {"instruction": p, "output": text(), "generator": name, "dataset": d}
            for p, d in zip(prompts, sources, strict=True)
        ]
        write_json(folder / "generations" / f"{name}.json", rows)
    write_json(folder / "generations" / "after.settings.json", {"temperature": 0.7})
    judged = [
        {
            "prompt": row["instruction"],
            "model_output": hashlib.sha256(row["output"].encode()).hexdigest()[:16],
            "verdict": ("loss", "win", "tie")[place % 3],
        }
        for place, row in enumerate(rows)
    ]
    write_lines(folder / "judgements.jsonl", judged)
    write_json(
        folder / "winrate.json",
        {
            "schema": "distal.winrate/1",
            "judge": {"judge": "server", "model": "judge"},
            "model": "after",
            "baseline": "before",
            "n": n,
        }
        | {
            "win_rate": 0.6,
            "interval": [0.5, 0.7],
            "confidence": 0.9,
            "wins": 6,
            "losses": 4,
            "ties": 0,
            "failed": 1,
        }
        | {
            "notes": ["few prompts"],
            "order_agreement": 0.8,
            "length_adjusted": None,
            "length_controlled": {"win_rate": 0.55, "interval": None},
        },
    )
    task = {
        "task": "arc",
        "metric": "acc",
        "before": 0.5,
        "before_stderr": 0.01,
        "after": 0.6,
        "after_stderr": 0.01,
    }
    write_json(
        folder / "benchmarks.json",
        {
            "schema": "distal.benchmarks/1",
            "tasks": [task | {"difference": 0.1, "difference_stderr": 0.02, "n": 100}],
        },
    )
    return run
