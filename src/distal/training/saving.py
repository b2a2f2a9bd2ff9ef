"""The Trainer's way of saving and resuming, made safe: whole checkpoints, of this run and no other."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from distal.errors import OutputError
from distal.training.checkpoints import (
    STAGING,
    discard_staged,
    last_complete_checkpoint,
    promote_staged,
    publish,
    read_record,
    rotate,
    why_unusable,
    write_record,
)
from distal.training.launch import checkpoint_layout
from distal.training.resumption import RunIdentity, refuse_other_run, tell_differences

if TYPE_CHECKING:
    from distal.training.config import AlignmentConfig

__all__ = ["ResumableTrainer"]

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """A `transformers.Trainer` whose checkpoints appear whole, and go on exactly where they were made.

    What the parent class does well stays its own: what a checkpoint holds, in which files, on which ranks. Here it
    is made to write elsewhere first (`distal.training.checkpoints`), each checkpoint gets the identity of its run
    (`distal.training.resumption`), and the order of rows does not depend on how a version of transformers skips
    the batches that are done.
    """

    args: AlignmentConfig

    _identity: RunIdentity | None = None
    _staging: Path | None = None
    _first_step = 0

    # -------------------------------------------------------------- resuming

    def prepare_folder(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        """Clear away what a killed process left half done, and find the checkpoint to go on from.

        Args:
            resume_from_checkpoint: as in `train`.

        Returns:
            The checkpoint, or None to start from the beginning.

        Raises:
            OutputError: there is no usable checkpoint.
        """
        with self.args.main_process_first(desc="checkpoints"):
            if self.args.should_save:
                (promote_staged if resume_from_checkpoint else discard_staged)(str(self.args.output_dir))
        if resume_from_checkpoint is True:
            return last_complete_checkpoint(str(self.args.output_dir))
        if not resume_from_checkpoint:
            return None
        reason = why_unusable(resume_from_checkpoint)
        if reason is not None:
            raise OutputError(
                f"cannot resume from {resume_from_checkpoint}: {reason}. Name another checkpoint."
            )
        return Path(resume_from_checkpoint)

    def refuse_other_run(self, identity: RunIdentity, checkpoint: Path) -> None:
        """Refuse a checkpoint of another run; before the reference is scored, which may take long, and after.

        Raises:
            ConfigError: listing what differs.
        """
        record = read_record(checkpoint)
        if record is not None:
            now = identity.launched(checkpoint_layout(self.accelerator))
            refuse_other_run(now, RunIdentity(record["identity"]), str(checkpoint))

    def begin_run(self, identity: RunIdentity, checkpoint: Path | None) -> None:
        """Remember what run this is, for its checkpoints, and where it goes on.

        Raises:
            ConfigError: the checkpoint belongs to another run; the message lists what differs.
        """
        self._identity, self._first_step = identity.launched(checkpoint_layout(self.accelerator)), 0
        if checkpoint is None:
            return
        self.refuse_other_run(identity, checkpoint)
        self._first_step = _step_of(checkpoint)
        record = read_record(checkpoint)
        if record is not None:
            tell_differences(identity, RunIdentity(record["identity"]), str(checkpoint))
        else:
            logger.warning(
                "%s does not say what run it belongs to (another program wrote it), so nothing guards against a "
                "change of data, reference or options.",
                checkpoint,
            )

    def first_epoch(self, steps_per_epoch: int) -> int:
        """The epoch, 0-based, that the next step belongs to.

        Versions of transformers before 5.23 do not tell the sampler which epoch it is when they resume in the
        middle of one; a sampler that starts at this epoch need not be told.
        """
        return self._first_step // steps_per_epoch

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * steps_per_epoch)

    def no_steps_left(self, steps_per_epoch: int) -> bool:
        """Whether the checkpoint is that of the last step, as of a run that was killed while it wrote its results.

        The parent class would take one step more where that step is not the last one of an epoch.
        """
        return 0 < self.total_steps(steps_per_epoch) <= self._first_step

    # ---------------------------------------------------------------- saving

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        run_dir = Path(super()._get_output_dir(trial))
        staging = run_dir / STAGING
        target = run_dir / f"checkpoint-{self.state.global_step}"
        staged = staging / target.name
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
            self.save_own_state(staged)
            self.accelerator.wait_for_everyone()  # every rank's files are there
            self._name_best(run_dir)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                write_record(staged, {} if self._identity is None else self._identity.sections)
                publish(staged, target)
        except Exception:
            shutil.rmtree(staging, ignore_errors=True)  # where the disk is full, its remains are in the way
            raise
        finally:
            self._staging = None
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            kept = {target} if best is None else {target, Path(best)}
            rotate(run_dir, self.args.save_total_limit, protected=kept)
            discard_staged(run_dir)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole model, so that `from_pretrained` reads it; every rank must call this.

        Where checkpoints hold one part of the weights per rank (FSDP, `SHARDED_STATE_DICT`), the parent class writes
        nothing at all when it is asked for the model.
        """
        plugin: Any = getattr(self.accelerator.state, "fsdp_plugin", None)
        in_parts = plugin is not None and plugin.state_dict_type.name == "SHARDED_STATE_DICT"
        if _internal_call or not in_parts:
            super().save_model(output_dir, _internal_call)
        else:
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))

    def save_own_state(self, folder: Path) -> None:
        """Called while a checkpoint is being written: a place to add files, by ranks that `should_save`."""

    def _name_best(self, run_dir: Path) -> None:
        """Name the best checkpoint by where it will be, not by where it is being written."""
        best = self.state.best_global_step
        if best is None:
            return
        folder = run_dir / f"checkpoint-{best}"
        if best == self.state.global_step or folder.is_dir():
            self.state.best_model_checkpoint = str(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The parent calls it while the checkpoint is still in the staging folder, which an upload would outlive.
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Any] | None = None) -> None:
        """Save without the pickled arguments: a model folder should hold nothing that runs code when loaded."""
        super()._save(output_dir, state_dict=state_dict)  # pyright: ignore[reportArgumentType] - only read
        Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)


def _step_of(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"])
