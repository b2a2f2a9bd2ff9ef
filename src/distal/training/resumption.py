"""What a checkpoint belongs to: the data, reference, objective and optimizer that it can be resumed with.

Two runs with the same identity take the same steps. So each checkpoint carries the identity of its run, and resuming
compares: a difference that makes it another run, or that would have no effect any more, is refused; one that a user
may want (more steps, another precision, other versions) is told.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from distal.data import TokenizedPreferences
from distal.errors import ConfigError
from distal.objectives import Objective
from distal.scoring import compute_dtype
from distal.scoring.adapters import adapter_settings
from distal.scoring.partitioned import whole_shape
from distal.scoring.sharing import word_from_first_rank
from distal.training.models import has_dropout

if TYPE_CHECKING:
    from distal.training.config import AlignmentConfig

__all__ = ["RunIdentity", "refuse_other_run", "tell_differences"]

logger = logging.getLogger(__name__)

Section = Mapping[str, Any]

_OPTIMIZER = (
    "optim",
    "optim_args",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
)
_SCHEDULE = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_grad_norm")
_VERSIONS = ("torch", "transformers", "accelerate", "peft")

_REFUSED = {
    "data": "the training rows are others (another data file, tokenizer, chat template, max_length or truncation)",
    "reference": (
        "rewards would be measured against another reference. Give the trainer the model that the run started from, "
        "not a checkpoint of it (resuming loads the checkpoint's weights by itself), and the same ref_model"
    ),
    "objective": "the loss would be another one",
    "batches": "the remaining steps would not see the rows that are left",
    "weights": "the checkpoint's weights or optimizer state would not fit this model",
    "launch": (
        "the checkpoint's files suit only processes launched as those that wrote them. Launch as before (plain data "
        "parallelism and FSDP2 on any number of devices, DeepSpeed on the same number)"
    ),
    "optimizer": "the checkpoint's optimizer state carries the old value, so that the new one would have no effect",
}
"""Sections in which nothing may differ, and what a difference means."""
_TOLD = {
    "schedule": "the remaining steps follow the new schedule",
    "arithmetic": "what follows is not bitwise what the run would have been",
}
"""Sections in which something may differ, and what a difference means."""


@dataclass(frozen=True)
class RunIdentity:
    """Everything that the steps of a run depend on, in sections that can be written as JSON."""

    sections: Mapping[str, Section]

    @classmethod
    def of(
        cls,
        args: AlignmentConfig,
        objective: Objective,
        model: nn.Module,
        dataset: TokenizedPreferences,
        *,
        reference_weights: str | None,
        frozen_weights: str | None,
        steps: int,
    ) -> RunIdentity:
        """The identity of a run that is ready to start.

        Args:
            args: its settings.
            objective: what it minimises.
            model: the policy, before it is wrapped for data parallelism.
            dataset: the training data, with reference scores.
            reference_weights: fingerprint of the reference; None where the scores came with the data.
            frozen_weights: fingerprint of the weights under an adapter, where the reference does not vouch for them.
            steps: optimizer steps from beginning to end.
        """
        options = {item.name: getattr(objective, item.name) for item in dataclasses.fields(objective)}
        sections: dict[str, Section] = {
            "data": {
                "rows": dataset.fingerprint,
                "units": len(dataset),
                "kind": dataset.kind,
                **({} if dataset.weights is None else {"weights": _digest(dataset.weights)}),
            },
            "reference": {"weights": reference_weights, "scores": _digest(dataset.reference_scores)},
            "objective": {"objective": objective.name, **options},
            "batches": {
                "global_batch_size": args.global_batch_size,
                "data_seed": args.seed if args.data_seed is None else args.data_seed,
                "dataloader_drop_last": args.dataloader_drop_last,
            },
            "weights": _weights(model, frozen_weights),
            "optimizer": {name: getattr(args, name) for name in _OPTIMIZER},
            "schedule": {"steps": steps, **{name: getattr(args, name) for name in _SCHEDULE}},
            "arithmetic": {
                "dtype": str(compute_dtype(model, args.autocast_dtype)),
                "dropout": has_dropout(model),
                "device": args.device.type,
                "processes": args.world_size,
                **({"compile_blocks": True} if args.compile_blocks else {}),
                **_versions(),
            },
        }
        return cls(json.loads(json.dumps(sections, default=_plain)))

    def of_first_rank(self) -> RunIdentity:
        """What the first rank has found out, on every rank; all of them must call this.

        With FSDP's `cpu_ram_efficient_loading` it may be the only one that holds the weights before they are shared
        out (transformers 5.17 fills them with zeros on the others), and all ranks must come to one verdict anyway.
        """
        return RunIdentity(json.loads(word_from_first_rank(json.dumps(self.sections))))

    def launched(self, layout: Section) -> RunIdentity:
        """This run, with how its checkpoints are laid out (`distal.training.launch.checkpoint_layout`)."""
        return RunIdentity({**self.sections, "launch": layout})

    def differences(self, earlier: RunIdentity) -> dict[str, list[str]]:
        """What differs from an earlier run, as sentences by section; sections that agree are left out."""
        found = {
            section: _changes(earlier.sections.get(section, {}), values)
            for section, values in self.sections.items()
        }
        now, then = self.sections["reference"], earlier.sections.get("reference", {})
        scored_alike = now["scores"] is None or now["scores"] == then.get("scores")
        if None in (now["weights"], then.get("weights")):
            found["reference"] = [] if scored_alike else ["the reference scores are others"]
        elif now["weights"] != then["weights"]:
            found["reference"] = [_change("weights", then["weights"], now["weights"])]
        else:
            # Scores of the same weights that differ were computed anew, on another machine perhaps: rounding.
            found["reference"] = []
            if not scored_alike:
                found["arithmetic"].append("reference scores were computed anew and differ by rounding")
        return {section: changes for section, changes in found.items() if changes}


def refuse_other_run(now: RunIdentity, then: RunIdentity, where: str) -> None:
    """Refuse a checkpoint that belongs to another run than the one that is about to go on.

    Args:
        now: identity of this run; before the reference is scored it has no scores, which are then not compared.
        then: what the checkpoint's record says.
        where: the checkpoint, for messages.

    Raises:
        ConfigError: the message lists what differs and what that means.
    """
    lines = [
        f"  - {change}: {_REFUSED[section]}."
        for section, changes in now.differences(then).items()
        if section in _REFUSED
        for change in changes
    ]
    if lines:
        raise ConfigError(
            f"cannot resume from {where}, because it belongs to another run:\n"
            + "\n".join(lines)
            + "\nUndo these changes, or start a new run in another output_dir."
        )


def tell_differences(now: RunIdentity, then: RunIdentity, where: str) -> None:
    """Log what may differ when a run is resumed, and does."""
    for section, changes in now.differences(then).items():
        if section in _TOLD:
            logger.warning("Resuming from %s: %s; %s.", where, "; ".join(changes), _TOLD[section])


def _changes(then: Section, now: Section) -> list[str]:
    names = [*now, *(name for name in then if name not in now)]
    return [_change(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)]


def _change(name: str, then: object, now: object) -> str:
    return f"{name} was {_short(then)}, now {_short(now)}"


def _short(value: object) -> str:
    # Digests say nothing beyond whether they are equal.
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)


def _weights(model: nn.Module, frozen: str | None) -> Section:
    """Names, shapes and types of the trained weights, and what adapters make of them."""
    entries = [
        (name, tuple(whole_shape(parameter)), str(parameter.dtype))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    return {
        "trained_weights": len(entries),
        "trained_parameters": sum(int(np.prod(shape)) for _, shape, _ in entries),
        "names_and_shapes": hashlib.sha256(repr(entries).encode()).hexdigest(),
        "frozen_weights": frozen,
        **adapter_settings(model),
    }


def _digest(scores: Any) -> str | None:
    return None if scores is None else hashlib.sha256(np.ascontiguousarray(scores).tobytes()).hexdigest()


def _versions() -> dict[str, str]:
    installed = {name: _version(name) for name in _VERSIONS}
    return {name: version for name, version in installed.items() if version is not None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: object) -> object:
    """A value that JSON has no form for: an enumeration by its value, a set in order, anything else by its text."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return value.value if isinstance(value, enum.Enum) else repr(value)
