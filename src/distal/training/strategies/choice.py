"""The strategy that a run has settled on, as its checkpoints remember it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distal.errors import OutputError

__all__ = ["CHOICE_FILE", "Choice"]

CHOICE_FILE = "strategy.json"
"""Name of the file in a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the gradients of a run are computed, and what that was decided by.

    Strategies agree to rounding only, and so do two splits of a batch into what is kept and what is recomputed. A
    resumed run that measured its memory anew might end with other last bits than the run that went through.

    Attributes:
        strategy: `retain`, `deferred` or `recompute`.
        budget: bytes that it could keep.
        kept: bytes that it has kept at most; the whole budget where that has ever been too little.
        per_token: `retain`: bytes that a token's graph has taken at most.
        graph: `deferred`: bytes of the budget that were left to the graph of one micro-batch.
        basis: options on which the sizes depend. Under others the choice says nothing.
    """

    strategy: str
    budget: int
    kept: int
    per_token: float = 0.0
    graph: int = 0
    basis: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def save(self, folder: str | Path) -> None:
        """Write it into a checkpoint."""
        (Path(folder) / CHOICE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Choice | None:
        """The choice of a checkpoint; None where it has none, as when one pass was exact in every step.

        Raises:
            OutputError: the file is damaged.
        """
        path = Path(folder) / CHOICE_FILE
        if not path.exists():
            return None
        try:
            choice = cls(**json.loads(path.read_text(encoding="utf-8")))
            sound = (
                choice.strategy in _KNOWN
                and min(choice.budget, choice.kept, choice.per_token, choice.graph) >= 0
            )
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{path} cannot be read ({error}); resume from another checkpoint.") from None
        if not sound:
            raise OutputError(f"{path} names no strategy of this version; resume from another checkpoint.")
        return choice


_KNOWN = ("retain", "deferred", "recompute")
