"""Finished tasks on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from distal.errors import OutputError
from distal.evaluation.benchmarks.records import Side, TaskOutcome
from distal.evaluation.files import write_atomically

__all__ = ["TaskStore"]

_SCHEMA = "distal.benchmark-task/1"


class TaskStore:
    """Results of single tasks: for each side and task, the documents as JSON lines and a summary beside them.

    The summary is written last and holds the checksum of the documents: a task is finished where both agree.

    Args:
        folder: where they are kept, as `SIDE/TASK.json` and `SIDE/TASK.jsonl`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self, side: Side, task: str) -> tuple[Path, Path]:
        """Where the summary and the documents of a task are."""
        name = re.sub(r"[^\w.-]", "_", task)
        return self.folder / side / f"{name}.json", self.folder / side / f"{name}.jsonl"

    def write(self, side: Side, outcome: TaskOutcome) -> None:
        """Keeps a finished task.

        Raises:
            OutputError: the folder cannot be written to, or its disk is full.
        """
        summary, documents = self.paths(side, outcome.task)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in outcome.documents)
        content = lines.encode()
        write_atomically(documents, content)
        head = {"schema": _SCHEMA, "sha256": hashlib.sha256(content).hexdigest()} | asdict(outcome)
        del head["documents"]
        text = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(summary, (text + "\n").encode())

    def read(self, side: Side, task: str) -> TaskOutcome | None:
        """A finished task; None where there is none, or it is damaged and has to be evaluated again.

        Raises:
            OutputError: the file is something else.
        """
        summary, documents = self.paths(side, task)
        try:
            head = json.loads(summary.read_text("utf-8"))
            content = documents.read_bytes()
        except (OSError, ValueError):
            return None
        if not isinstance(head, dict) or cast(dict[str, Any], head).pop("schema", None) != _SCHEMA:
            raise OutputError(
                f"{summary} is not a result of this version; nothing was touched. Name another output folder, or add "
                "--overwrite."
            )
        fields = cast(dict[str, Any], head)
        if fields.pop("sha256", None) != hashlib.sha256(content).hexdigest():
            return None
        records = [json.loads(line) for line in content.decode("utf-8").split("\n") if line]
        return TaskOutcome(**fields, documents=records)

    def remove(self, side: Side, task: str) -> None:
        """Forgets a task.

        Raises:
            OutputError: its files cannot be removed.
        """
        for path in self.paths(side, task):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"cannot remove {path}: {error.strerror}; check its rights") from error

    def check(self, side: Side, outcome: TaskOutcome, wanted: dict[str, Any]) -> None:
        """Refuses a kept task that came about under other settings.

        Args:
            side: which model.
            outcome: the kept task.
            wanted: settings that matter now; others are not compared.

        Raises:
            OutputError: naming what differs.
        """
        differing = [
            f"{name} was {_shown(outcome.settings.get(name))}, now {_shown(value)}"
            for name, value in wanted.items()
            if outcome.settings.get(name) != value
        ]
        if differing:
            raise OutputError(
                f"{self.paths(side, outcome.task)[0]} holds this task under other settings: {'; '.join(differing)}. "
                "Nothing was touched. Name another output folder, or add --overwrite."
            )


def _shown(value: object) -> str:
    text = json.dumps(cast(Any, value), ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:60] + "..."
