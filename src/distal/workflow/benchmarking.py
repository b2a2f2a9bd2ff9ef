"""Benchmarks of a model and of the one it came from, in one run that can be stopped and gone on with."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distal.errors import ConfigError, OutputError
from distal.evaluation.benchmarks.comparison import compare_benchmarks
from distal.evaluation.benchmarks.harness import harness_version
from distal.evaluation.benchmarks.language_model import language_model
from distal.evaluation.benchmarks.records import SCHEMA, SIDES, BenchmarkReport, Side, TaskOutcome
from distal.evaluation.benchmarks.running import GENERATION_WORK, evaluate_task, work_of
from distal.evaluation.benchmarks.store import TaskStore
from distal.evaluation.benchmarks.suites import LoadedTasks, load_tasks
from distal.progress import meter
from distal.scoring.fingerprint import weights_fingerprint
from distal.scoring.loading import check_vocabulary, is_adapter, load_model, load_tokenizer
from distal.scoring.reference import AdapterOff
from distal.workflow.benchmark_options import BenchmarkOptions
from distal.workflow.environment import package_versions
from distal.workflow.interrupt import RunInterrupted
from distal.workflow.lock import FolderLock
from distal.workflow.preparation import read_chat_template

__all__ = ["run_benchmarks"]


@dataclass(frozen=True, slots=True)
class _Source:
    """A model that is loaded once, for one side or, where an adapter can be switched off, for both."""

    name: str
    sides: tuple[Side, ...]


def run_benchmarks(
    options: BenchmarkOptions, *, tell: Callable[[str], None] = lambda line: None
) -> BenchmarkReport:
    """Evaluates the model, and the one before it, task by task; finished tasks are kept.

    Args:
        options: models, tasks, and where results go.
        tell: called with each line of news.

    Returns:
        The comparison, written to `benchmarks.json` in the output folder.

    Raises:
        DistalError: anything that the user can mend.
        RunInterrupted: Ctrl-C; the same call goes on with the tasks that are not finished.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("benchmarks run in one process; start them without torchrun or accelerate.")
    version = harness_version()
    sources = _sources(options)
    tokenizers = {source.name: _tokenizer(source.name, options) for source in sources}
    with _claimed(options.output):
        loaded = load_tasks(
            options.suite,
            options.tasks,
            data=options.benchmark_data,
            include_path=options.include_path,
            num_fewshot=options.num_fewshot,
            max_gen_tokens=options.max_gen_tokens,
        )
        run = _Run(options, loaded, version, [side for source in sources for side in source.sides])
        run.prepare(tell)
        try:
            with meter("benchmarks" if options.progress else None, total=run.work) as advance:
                for source in sources:
                    ghost = run.evaluate(source, tokenizers[source.name], advance)
                    if ghost() is not None:  # parts that refer to each other are not gone by themselves
                        gc.collect()
        except KeyboardInterrupt as error:
            done, total = run.progress()
            raise RunInterrupted(
                f"interrupted: {done} of {total} tasks are finished and kept in {options.output}; the same command "
                "goes on with the others."
            ) from error
        report = run.report()
        report.save(options.report_path)
    return report


class _Run:
    """The state of one run: what is to do, what is done."""

    def __init__(
        self, options: BenchmarkOptions, loaded: LoadedTasks, version: str, sides: list[Side]
    ) -> None:
        self.options = options
        self.loaded = loaded
        self.version = version
        self.sides = sides
        self.store = TaskStore(options.output / "tasks")
        self.done: dict[Side, dict[str, TaskOutcome]] = {side: {} for side in SIDES if side in sides}
        self.work = 0.0

    def prepare(self, tell: Callable[[str], None]) -> None:
        """Takes up what is finished, or forgets it where it is to be overwritten.

        Raises:
            OutputError: the folder holds results of other settings or tasks, and they are not to be replaced.
        """
        if not self.options.overwrite:
            self._refuse_other_report()
        for side, done in self.done.items():
            for name, task in self.loaded.tasks.items():
                if self.options.overwrite:
                    self.store.remove(side, name)
                kept = self.store.read(side, name)
                if kept is None:
                    self.work += work_of(task, self.options.limit)
                    continue
                self.store.check(side, kept, self._settings(task))
                done[name] = kept
        documents = sum(len(task.eval_docs) for task in self.loaded.tasks.values())
        tell(
            f"{len(self.loaded.benchmarks)} benchmarks in {len(self.loaded.tasks)} tasks with {documents:,} documents, "
            + (
                "all of them"
                if self.options.limit is None
                else f"the first {self.options.limit:,} of each task"
            )
            + f"; {self.options.num_fewshot} examples in the prompt."
        )
        done, total = self.progress()
        if done:
            tell(f"{done} of {total} tasks were finished before and are kept.")

    def evaluate(self, source: _Source, tokenizer: Any, advance: Callable[[float], None]) -> weakref.ref[Any]:
        """Loads a model, evaluates the tasks that are not finished under it, and lets go of it.

        Returns:
            A weak reference to the model, by which one sees whether its memory is free again.
        """
        model = _load(source.name, tokenizer, self.options)
        for side in source.sides:
            off = len(source.sides) == 2 and side == "before"
            with AdapterOff(model).active() if off else nullcontext():
                self._evaluate_side(side, model, tokenizer, _identity(model, source.name, off), advance)
        return weakref.ref(model)

    def progress(self) -> tuple[int, int]:
        """Finished tasks of both sides, and all of them."""
        return sum(len(done) for done in self.done.values()), len(self.done) * len(self.loaded.tasks)

    def report(self) -> BenchmarkReport:
        """The comparison of what is done."""
        options = self.options
        models = {side: _model_settings(done) for side, done in self.done.items()}
        notes = list(self.loaded.notes)
        if len({model["weights"] for model in models.values()}) < len(models):
            notes.append("both models have the same weights")
        if options.limit is not None:
            notes.append(
                f"only the first {options.limit:,} documents of each task were evaluated: no figures to publish"
            )
        settings: dict[str, Any] = {
            "suite": options.suite,
            "benchmark_data": None if options.benchmark_data is None else str(options.benchmark_data),
            "include_path": None if options.include_path is None else str(options.include_path),
            "num_fewshot": options.num_fewshot,
            "limit": options.limit,
            "seed": options.seed,
            "dtype": options.dtype,
            "batch_size": options.batch_size,
            "max_gen_tokens": options.max_gen_tokens,
            "chat_template_applied": options.apply_chat_template,
            "models": models,
        }
        return compare_benchmarks(
            self.loaded.benchmarks,
            self.done,
            settings=settings,
            versions=package_versions() | {"lm_eval": self.version},
            notes=notes,
        )

    def _evaluate_side(
        self,
        side: Side,
        model: Any,
        tokenizer: Any,
        identity: Mapping[str, Any],
        advance: Callable[[float], None],
    ) -> None:
        """Evaluates the tasks of one side that are not finished, and keeps each as soon as it is."""
        ticked = 0.0

        def tick(kind: str) -> None:
            nonlocal ticked
            work = GENERATION_WORK if kind == "generate_until" else 1.0
            ticked += work
            advance(work)

        asked = language_model(model, tokenizer, batch_size=self.options.batch_size, on_request=tick)
        fixed = dict(identity) | {
            "context": asked.max_length,
            "chat_template": self._template_hash(tokenizer),
        }
        for name, task in self.loaded.tasks.items():
            wanted = self._settings(task) | fixed
            named = {"model": wanted.pop("model")}  # a folder may be moved: its weights count
            if name in self.done[side]:
                self.store.check(side, self.done[side][name], wanted)
                continue
            ticked = 0.0
            advance(0.0)
            outcome = evaluate_task(
                asked,
                name,
                task,
                limit=self.options.limit,
                seed=self.options.seed,
                apply_chat_template=self.options.apply_chat_template,
                settings=named | wanted | {"batch_size": self.options.batch_size},
            )
            self.store.write(side, outcome)
            self.done[side][name] = outcome
            advance(work_of(task, self.options.limit) - ticked)

    def _settings(self, task: Any) -> dict[str, Any]:
        """What the result of a task depends on beside the model."""
        config = {
            key: value
            for key, value in task.dump_config().items()
            if key not in ("dataset_kwargs", "metadata")
        }
        return {
            "suite": self.options.suite,
            "num_fewshot": task.get_config("num_fewshot"),
            "limit": self.options.limit,
            "seed": self.options.seed,
            "max_gen_tokens": self.options.max_gen_tokens,
            "apply_chat_template": self.options.apply_chat_template,
            "lm_eval": self.version,
            "task_config": _sha256(json.dumps(config, sort_keys=True, default=str)),
        }

    def _template_hash(self, tokenizer: Any) -> str | None:
        if not self.options.apply_chat_template:
            return None
        return _sha256(json.dumps(tokenizer.chat_template, sort_keys=True))

    def _refuse_other_report(self) -> None:
        """Refuses to replace a report that has rows which the new one would not have."""
        path = self.options.report_path
        if not path.exists():
            return
        try:
            content = json.loads(path.read_text("utf-8"))
            known = content["schema"] == SCHEMA
            rows = {row["task"] for row in content["tasks"]} - {each.name for each in self.loaded.benchmarks}
            sides = set(content["settings"]["models"]) - set(self.done)
        except (OSError, ValueError, KeyError, TypeError):
            known, rows, sides = False, set[str](), set[str]()
        if known and not rows and not sides:
            return
        why = "is no report of benchmarks of this version"
        if rows:
            why = f"has results that the new report would not have ({', '.join(sorted(rows))})"
        elif sides:
            why = f"compares with a model {' and '.join(sorted(sides))}, and the new report would not"
        raise OutputError(f"{path} {why}; nothing was touched. Name another folder, or add --overwrite.")


def _sources(options: BenchmarkOptions) -> list[_Source]:
    """Which models are loaded, in which order: one at a time, so that memory need hold only one."""
    if options.before is not None:
        return [_Source(options.before, ("before",)), _Source(options.model, ("after",))]
    return [_Source(options.model, SIDES if is_adapter(options.model) else ("after",))]


@contextmanager
def _claimed(folder: Path) -> Generator[None]:
    """The output folder, made if need be, for this process alone."""
    made = not folder.exists()
    lock = FolderLock(folder / ".lock", option="--output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write to {folder}: {error.strerror or error}; choose a folder that is writable (--output)."
        ) from error
    try:
        yield
    finally:
        lock.release()
        if made:
            with suppress(OSError):
                folder.rmdir()  # where nothing came to be written


def _tokenizer(name: str, options: BenchmarkOptions) -> Any:
    """The tokenizer of a model, with the chat template that is to be applied."""
    tokenizer: Any = load_tokenizer(options.tokenizer or name, trust_remote_code=options.trust_remote_code)
    if options.chat_template is not None:
        tokenizer.chat_template = read_chat_template(options.chat_template)
    if options.apply_chat_template and tokenizer.chat_template is None:
        raise ConfigError(
            f"the tokenizer of {name} has no chat template to apply; give one (--chat-template FILE), or leave out "
            "--apply-chat-template."
        )
    return tokenizer


def _load(name: str, tokenizer: Any, options: BenchmarkOptions) -> Any:
    """A model on the best device."""
    from accelerate import PartialState

    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what the model before it left
    model = load_model(
        name,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        trust_remote_code=options.trust_remote_code,
    ).to(PartialState().device)
    check_vocabulary(model, tokenizer)
    return model


def _identity(model: Any, name: str, adapters_off: bool) -> dict[str, Any]:
    """Which model a result is of."""
    return {
        "model": name,
        "adapters": "off" if adapters_off else "on",
        "weights": weights_fingerprint(model, with_adapters=not adapters_off),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }


def _model_settings(done: Mapping[str, TaskOutcome]) -> dict[str, Any]:
    """What the results of a side say of their model."""
    settings = next(iter(done.values())).settings
    return {
        name: settings[name] for name in ("model", "adapters", "weights", "dtype", "context", "chat_template")
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
