"""Finding the last checkpoint that a run can be resumed from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from distal.errors import OutputError

__all__ = ["is_complete_checkpoint", "last_complete_checkpoint"]

logger = logging.getLogger(__name__)


def is_complete_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint was written to its end.

    The Trainer writes the state file last, after weights, optimizer, scheduler and random state; a process killed
    while saving leaves it absent or cut short.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = any(folder.glob("*.safetensors"))
    return weights and isinstance(state, dict) and "global_step" in state


def last_complete_checkpoint(output_dir: str | Path) -> Path:
    """The newest usable `checkpoint-N` of a run; unfinished ones are skipped with a message.

    Raises:
        OutputError: there is none.
    """
    found = sorted(
        (p for p in Path(output_dir).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()),
        key=lambda p: int(p.name.removeprefix("checkpoint-")),
        reverse=True,
    )
    for folder in found:
        if is_complete_checkpoint(folder):
            return folder
        logger.warning("%s was not written to its end and is skipped.", folder)
    raise OutputError(
        f"{output_dir} holds no usable checkpoint to resume from ({len(found)} unfinished). "
        "Start again without resuming, in another folder or with overwrite."
    )
