"""The flat namespace of options: which names exist, what each may be, and how its type reads in a message."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from distal.workflow.options import DataOptions, LoraOptions, ModelOptions

__all__ = ["USE_INSTEAD", "Option", "Schema", "align_schema", "describe_type"]

_NAMES_ELSEWHERE = {
    "model_name_or_path": "model",
    "model_name": "model",
    "base_model": "model",
    "ref_model": "reference",
    "dataset": "data",
    "dataset_name": "data",
    "train_dataset": "data",
    "train_data": "data",
    "dataset_train_split": "split",
    "eval_dataset": "eval_data",
    "dataset_test_split": "eval_split",
    "use_peft": "lora",
    "loss_type": "objective",
    "torch_dtype": "dtype",
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "batch_size": "global_batch_size",
    "truncation_mode": "truncation",
    "assistant_only_loss": "loss_on",
    "completion_only_loss": "loss_on",
}
"""What an option is called in other libraries, for suggestions only."""

USE_INSTEAD = {
    "resume": "it is a switch of the command line only: distal align ... --resume",
    "overwrite": "it is a switch of the command line only: distal align ... --overwrite",
    "resume_from_checkpoint": "use the switch --resume, which finds the last usable checkpoint itself",
    "do_train": "`distal align` always trains",
    "do_eval": "held-out rows are always evaluated at the end; eval_strategy adds evaluations on the way",
    "do_predict": "use `distal evaluate dominance`",
    "per_device_train_batch_size": "set global_batch_size (what is learnt) and micro_batch_size (memory)",
    "per_device_eval_batch_size": "set reference_tokens_per_batch",
    "local_rank": "the launcher (torchrun, accelerate launch) sets it",
    "trackio_static_space_id": "it has no effect on a run of Distal",
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_always_push", "hub_private_repo"),
        "upload the finished folder instead: hf upload OWNER/NAME OUTPUT_DIR",
    ),
    "hub_revision": "upload the finished folder instead: hf upload OWNER/NAME OUTPUT_DIR --revision BRANCH",
}
"""Fields of `TrainingArguments` that would have no effect here, and what to do instead."""

_BOOL_TOO = frozenset({"fsdp"})
"""Fields of `TrainingArguments` that take true and false, although their annotation does not say so."""

_PLAIN_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    dict: "a mapping",
}


def _members(annotation: object) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is_enum(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def _narrowed(annotation: object) -> Any:
    """Drops `str` beside an enumeration: transformers would refuse any other text later, and less clearly."""
    members = _members(annotation)
    if any(_is_enum(member) for member in members) and str in members:
        return Union[tuple(member for member in members if member is not str)]  # noqa: UP007
    return annotation


def describe_type(annotation: object) -> str:
    """Names a type in plain words, as `Option.validate` takes it.

    Examples:
        >>> describe_type(int | None), describe_type(Literal["a", "b"])
        ('a whole number or null', 'one of a, b')
    """
    parts: list[str] = []
    for member in _members(_narrowed(annotation)):
        origin = get_origin(member)
        if origin is Literal:
            part = "one of " + ", ".join(str(value) for value in get_args(member))
        elif _is_enum(member):
            part = "one of " + ", ".join(str(item.value) for item in member)
        elif origin in (list, tuple):
            part = "a list"
        else:
            part = _PLAIN_NAMES.get(origin or member, getattr(member, "__name__", str(member)))
        if part == "a number" and "a whole number" in parts:
            parts.remove("a whole number")
        parts.append(part)
    return " or ".join(dict.fromkeys(parts))


@dataclass(frozen=True)
class Option:
    """One option of the namespace.

    Attributes:
        name: snake case.
        annotation: its type.
        default: its default, `dataclasses.MISSING` where there is none.
        help: what it does, in one line.
        section: the dataclass that holds it.
    """

    name: str
    annotation: Any
    default: Any
    help: str
    section: str

    @property
    def is_switch(self) -> bool:
        """Whether it may stand without a value on the command line."""
        return bool in _members(self.annotation) and str not in _members(self.annotation)

    @property
    def required(self) -> bool:
        """Whether the user has to give it."""
        return self.default is dataclasses.MISSING

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(_narrowed(self.annotation), config=ConfigDict(arbitrary_types_allowed=True))

    def validate(self, value: object, text: str | None) -> Any:
        """Converts a value to the option's type.

        Args:
            value: what the YAML rules made of it.
            text: how it was written, tried where a number was read but text is wanted (a revision `0123`).

        Raises:
            ValueError: it does not fit; the message names the type that is expected.
        """
        candidates = [value] if text is None or isinstance(value, str) else [value, text]
        for candidate in candidates:
            if isinstance(candidate, bool) and bool not in _members(self.annotation):
                continue  # pydantic would take true for 1
            try:
                checked = self._adapter.validate_python(candidate)
            except ValidationError:
                continue
            if checked == checked:  # not NaN
                return checked.value if isinstance(checked, enum.Enum) else checked
        raise ValueError(
            f"expected {describe_type(self.annotation)}, got {text if text is not None else value!r}"
        )


class Schema:
    """All options of `distal align`: of the model, the data, LoRA, and every field of `AlignmentConfig`.

    Args:
        sections: title of each section and its dataclass, in the order of the help text.
    """

    def __init__(self, sections: Mapping[str, type]) -> None:
        self.sections = dict(sections)
        self.options = {
            option.name: option for title, owner in sections.items() for option in _options_of(title, owner)
        }

    def __contains__(self, name: object) -> bool:
        return name in self.options

    def __getitem__(self, name: str) -> Option:
        return self.options[name]

    def is_switch(self, name: str) -> bool:
        """Whether an option of this name may stand without a value."""
        return name in self and self[name].is_switch

    def own(self, title: str) -> list[Option]:
        """The options of one section that are Distal's own, then those with another default here."""
        from transformers import TrainingArguments

        from distal.training.config import OWN_FIELDS

        mine = [option for option in self.options.values() if option.section == title]
        if title == "Training":
            mine = [option for option in mine if option.name in OWN_FIELDS and not self.why_not(option.name)]
            mine.sort(key=lambda option: option.name in TrainingArguments.__dataclass_fields__)
        return mine

    def why_not(self, name: str) -> str | None:
        """Why an option cannot be given, with a suggestion; None for one that can."""
        if name in USE_INSTEAD:
            return USE_INSTEAD[name]
        if name in self:
            return None
        elsewhere = _NAMES_ELSEWHERE.get(name)
        near = (
            [elsewhere]
            if elsewhere in self.options
            else difflib.get_close_matches(name, self.options, 2, 0.6)
        )
        if not near:
            return "no such option; `distal align --help` lists them"
        return f"no such option; did you mean {' or '.join(str(item) for item in near)}?"


def _options_of(title: str, owner: type) -> Iterator[Option]:
    """The options that a dataclass defines."""
    hints = typing.get_type_hints(owner)
    for item in dataclasses.fields(owner):
        if item.init:
            default = item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            annotation = hints[item.name] | bool if item.name in _BOOL_TOO else hints[item.name]
            yield Option(item.name, annotation, default, str(item.metadata.get("help", "")), title)


def align_schema() -> Schema:
    """The options of `distal align`; imports transformers."""
    from distal.training import AlignmentConfig

    return Schema(
        {"Model": ModelOptions, "Data": DataOptions, "LoRA": LoraOptions, "Training": AlignmentConfig}
    )
