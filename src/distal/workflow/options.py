"""What a run of `distal align` can be told, besides the fields of `AlignmentConfig`.

The four dataclasses share one flat namespace with `AlignmentConfig` in the YAML file and on the command
line; the help text of a field is its metadata entry `help`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from distal.data import ReadOptions
from distal.data.grades import GradeMethod, GradeTies
from distal.errors import ConfigError
from distal.workflow.reading import read_options

if TYPE_CHECKING:
    from peft import LoraConfig

    from distal.training import AlignmentConfig

__all__ = ["AlignOptions", "DataOptions", "LoraOptions", "ModelOptions", "check_dtype"]

DtypeName = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Quantization = Literal["none", "8bit", "4bit"]

DEFAULT_EVAL_SIZE = 0.1
"""Share of the prompts that is held out where the user names neither `eval_data` nor `eval_size`."""


def _option(default: object, text: str) -> Any:
    """A dataclass field with a default and a help text."""
    return field(default=default, metadata={"help": text})


def check_dtype(name: str) -> None:
    """Refuses a name that is no precision of weights.

    Raises:
        ConfigError: listing those that are.
    """
    if name not in get_args(DtypeName):
        raise ConfigError(f"dtype must be one of {', '.join(get_args(DtypeName))}; got {name!r}.")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model is trained, against which reference, and how the two are loaded."""

    model: str = field(
        metadata={"help": "local folder or hub id of a causal language model, or of a PEFT adapter"}
    )
    reference: str | None = _option(
        None, "frozen model to measure rewards against [default: the model as loaded]"
    )
    adapter: str | None = _option(
        None, "PEFT adapter on top of the model, to go on training; its copy is the reference"
    )
    tokenizer: str | None = _option(None, "folder or hub id of the tokenizer [default: the model's]")
    chat_template: str | None = _option(None, "Jinja file with a chat template [default: the tokenizer's]")
    revision: str | None = _option(None, "hub revision of the model: branch, tag or commit")
    dtype: DtypeName = _option("float32", "precision of the weights in memory; auto: as they are stored")
    attn_implementation: str | None = _option(
        None, "eager, sdpa, flash_attention_2, ... [default: chosen by transformers]"
    )
    trust_remote_code: bool = _option(False, "run Python code that comes with the model")
    quantization: Quantization = _option(
        "none",
        "4bit (NF4) or 8bit linear layers under an adapter, of model and reference alike; needs bitsandbytes",
    )
    quantization_dtype: DtypeName | None = _option(
        None, "type of products with 4-bit weights [default: dtype, and bfloat16 where that is auto]"
    )

    def __post_init__(self) -> None:
        if self.quantization_dtype is not None and self.quantization != "4bit":
            raise ConfigError(
                f"quantization_dtype has no effect with quantization: {self.quantization}; leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which preferences are trained on, and which are held out for the certificate."""

    data: str = field(
        metadata={
            "help": "preferences: .jsonl, .json, .csv (also .gz), .parquet, `datasets` folder or hub id"
        }
    )
    split: str | None = _option(None, "split of a hub data set or `datasets` folder [default: train]")
    eval_data: str | None = _option(None, "held-out preferences [default: a part of `data`, see eval_size]")
    eval_split: str | None = _option(None, "split of eval_data, or of data where eval_data is not given")
    eval_size: int | float | None = _option(
        None, f"held-out part of data, by prompt: number of units or fraction [default: {DEFAULT_EVAL_SIZE}]"
    )
    format: str | None = _option(
        None, "format of the rows, as `distal data formats` lists them [default: recognised]"
    )
    map: str | dict[str, str] | None = _option(None, "names of columns: prompt=question chosen=good ...")
    chat: bool = _option(False, "plain strings become messages, which the chat template writes")
    from_grades: GradeMethod | None = _option(
        None, "how graded answers become preferences; threshold gives unpaired data [default: threshold]"
    )
    grades: str | dict[str, float] | None = _option(
        None, "attributes that count, with weights: helpfulness=1 verbosity=-0.5 [default: the format's]"
    )
    grade_threshold: float | str | None = _option(
        None, "median, prompt_median or a grade; answers above are liked [default: median]"
    )
    grade_ties: GradeTies | None = _option(
        None, "what answers at the threshold are: drop, liked, disliked [default: drop]"
    )
    grade_margin: float | None = _option(None, "least difference of the grades of a pair [default: 0]")
    grade_seed: int | None = _option(None, "seed of from_grades: best_random [default: 0]")

    def __post_init__(self) -> None:
        self.reading()
        size = self.eval_size
        if size is not None and (self.eval_data is not None or self.eval_split is not None):
            other = "eval_data" if self.eval_data is not None else "eval_split"
            raise ConfigError(
                f"eval_size has no effect beside {other}, which already says what is held out; give one."
            )
        if size is not None and (size <= 0 or (size >= 1 and size != int(size))):
            raise ConfigError(
                f"eval_size must be a fraction between 0 and 1, or a whole number from 1 on; got {size}."
            )

    def reading(self) -> ReadOptions:
        """How the rows of both sources are read.

        Raises:
            ConfigError: a value that an option cannot have.
        """
        names = ("from_grades", "grades", "grade_threshold", "grade_ties", "grade_margin", "grade_seed")
        given = {name: getattr(self, name) for name in names}
        return read_options(format=self.format, map=self.map, chat=self.chat, **given)

    @property
    def held_out(self) -> int | float | None:
        """What is cut off `data` for evaluation: a count, a fraction, or None where it has its own source."""
        if self.eval_data is not None or self.eval_split is not None:
            return None
        size = DEFAULT_EVAL_SIZE if self.eval_size is None else self.eval_size
        return int(size) if size >= 1 else size


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Low-rank adapters instead of training all weights."""

    lora: bool = _option(False, "train a low-rank adapter instead of all weights")
    lora_r: int = _option(16, "rank of the adapter")
    lora_alpha: int = _option(32, "scale of the adapter: its update is multiplied by alpha / r")
    lora_dropout: float = _option(0.0, "dropout inside the adapter")
    lora_target_modules: str | list[str] = _option(
        "all-linear", "names of the layers that get an adapter, as a list"
    )
    lora_modules_to_save: list[str] | None = _option(
        None, "layers trained in full and stored with the adapter"
    )
    lora_rslora: bool = _option(False, "scale by alpha / sqrt(r) instead")

    def __post_init__(self) -> None:
        if not self.lora:
            idle = [name for name in self.changed() if name != "lora"]
            if idle:
                raise ConfigError(
                    f"{', '.join(idle)}: no effect without lora; add `lora: true` or leave it out."
                )
        if self.lora_r < 1 or self.lora_alpha < 1:
            raise ConfigError(
                f"lora_r and lora_alpha must be at least 1; got {self.lora_r} and {self.lora_alpha}."
            )
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout must lie in [0, 1); got {self.lora_dropout}.")

    def changed(self) -> list[str]:
        """Names of the settings that differ from their defaults."""
        return [item.name for item in fields(self) if getattr(self, item.name) != item.default]

    def peft_config(self) -> LoraConfig | None:
        """The adapter as PEFT wants it, or None where all weights are trained."""
        if not self.lora:
            return None
        from peft import LoraConfig

        targets = self.lora_target_modules
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=targets.split(",") if isinstance(targets, str) and "," in targets else targets,
            modules_to_save=self.lora_modules_to_save,
            use_rslora=self.lora_rslora,
        )


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Everything that defines one run of `align`.

    Attributes:
        model: model, reference and how they are loaded.
        data: training and held-out preferences.
        lora: adapter settings.
        training: objective, batch and every other field of `transformers.TrainingArguments`.
        resume: go on from the last usable checkpoint in the output folder.
        overwrite: remove what an earlier run left in the output folder, once the new one is ready to start.
        command: how the run was started, for the record.
        notes: what became of options that were given, told at the start.
    """

    model: ModelOptions
    data: DataOptions
    training: AlignmentConfig
    lora: LoraOptions = LoraOptions()
    resume: bool = False
    overwrite: bool = False
    command: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ConfigError("--resume goes on with a run, --overwrite discards it: give one of the two.")
        if self.lora.lora and self.model.adapter is not None:
            raise ConfigError(
                "lora starts a new adapter and `adapter` goes on with an existing one: give one of the two "
                "(merge the old adapter into the model first, to train a new one on top)."
            )
