"""What `distal evaluate benchmarks` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distal.errors import ConfigError

__all__ = ["BenchmarkOptions"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What `distal evaluate benchmarks` can be told.

    Attributes:
        model: local folder or hub id of the model or adapter to evaluate.
        output: folder for `benchmarks.json` and the results of single tasks.
        before: model to compare with; None for an adapter's own base model, and for nothing where there is no adapter.
        suite: `open-llm` (documents from the hub) or `local` (documents from files).
        tasks: names of tasks or groups; all of the suite if empty.
        benchmark_data: folder with the files of the suite `local`.
        include_path: folder with further task files in lm-evaluation-harness's format, and code that they name.
        num_fewshot: examples in the prompt.
        limit: first documents of each task that are evaluated; None for all.
        seed: of the choice of examples and of what else is random.
        batch_size: rows of a forward pass; memory and speed only.
        max_gen_tokens: longest generation; None for what each task says.
        apply_chat_template: whether prompts become messages, written by the chat template.
        chat_template: Jinja file; None for the tokenizer's.
        tokenizer: None for each model's own.
        dtype: of the weights in memory, for both models.
        attn_implementation: None for transformers' choice.
        trust_remote_code: run Python code that comes with the models.
        overwrite: whether results of other settings may be replaced.
        progress: whether to show a progress bar.
    """

    model: str
    output: Path
    before: str | None = None
    suite: str = "open-llm"
    tasks: tuple[str, ...] = ()
    benchmark_data: Path | None = None
    include_path: Path | None = None
    num_fewshot: int = 0
    limit: int | None = None
    seed: int = 1234
    batch_size: int = 8
    max_gen_tokens: int | None = None
    apply_chat_template: bool = False
    chat_template: str | None = None
    tokenizer: str | None = None
    dtype: str = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        least = {"num_fewshot": 0, "limit": 1, "seed": 0, "batch_size": 1, "max_gen_tokens": 1}
        for name, value in least.items():
            given = getattr(self, name)
            if given is not None and given < value:
                raise ConfigError(f"{name} must be at least {value}; got {given}.")
        if self.benchmark_data is not None and self.suite == "open-llm":
            raise ConfigError("benchmark_data has no effect but in the suite local: add --suite local.")
        if self.chat_template is not None and not self.apply_chat_template:
            raise ConfigError(
                "chat_template has no effect without --apply-chat-template; add it, or leave it out."
            )

    @property
    def report_path(self) -> Path:
        """Where the report goes."""
        return self.output / "benchmarks.json"
