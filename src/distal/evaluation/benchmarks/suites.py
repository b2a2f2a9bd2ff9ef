"""Which tasks there are, and how they are made ready."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from distal.errors import ConfigError, DataError
from distal.evaluation.benchmarks.documents import mmlu_subjects
from distal.evaluation.benchmarks.harness import contained
from distal.evaluation.benchmarks.records import Benchmark

__all__ = ["LOCAL_TASKS", "SUITES", "TASK_FOLDER", "LoadedTasks", "load_tasks"]

TASK_FOLDER = Path(__file__).parent / "tasks"
"""The task files of the suite `local`, in lm-evaluation-harness's format."""

LOCAL_TASKS = (
    "arc_easy",
    "arc_challenge",
    "hellaswag",
    "mmlu",
    "truthfulqa_mc1",
    "truthfulqa_mc2",
    "winogrande",
    "gsm8k",
)
SUITES: dict[str, tuple[str, ...]] = {
    "open-llm": LOCAL_TASKS,
    # HellaSwag's file is seldom at hand; it is evaluated where it is asked for by name.
    "local": tuple(name for name in LOCAL_TASKS if name != "hellaswag"),
}
"""Suite -> the tasks that it evaluates where none are named."""

_SUBJECT = "mmlu_"
_OWN_FUNCTIONS = "distal.evaluation.benchmarks."
_FOLDERS = ("arc", "gsm8k", "hellaswag", "mmlu/default", "truthfulqa", "winogrande")
"""Folders of the harness in which the suite's tasks are; reading all of its folders takes a minute."""


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """Tasks with their documents.

    Attributes:
        benchmarks: what the rows of the table will be.
        tasks: name -> `lm_eval` task.
        notes: where a task deviates from the one whose name it carries.
    """

    benchmarks: list[Benchmark]
    tasks: dict[str, Any]
    notes: list[str] = field(default_factory=list[str])

    def extend(self, other: LoadedTasks) -> None:
        """Adds other tasks; one that is here already keeps its row."""
        here = {benchmark.name for benchmark in self.benchmarks}
        self.benchmarks.extend(each for each in other.benchmarks if each.name not in here)
        self.tasks.update(other.tasks)


def load_tasks(
    suite: str,
    names: Sequence[str] = (),
    *,
    data: Path | None = None,
    include_path: Path | None = None,
    num_fewshot: int = 0,
    max_gen_tokens: int | None = None,
) -> LoadedTasks:
    """Loads tasks and their documents.

    Args:
        suite: `open-llm`, whose documents come from the hub, or `local`, whose documents are files.
        names: tasks or groups to evaluate; all of the suite where there are none.
        data: folder of the files, for `local`.
        include_path: folder with further task files in lm-evaluation-harness's format.
        num_fewshot: examples in the prompt, except where a task fixes their number.
        max_gen_tokens: longest generation; None for what the task says.

    Raises:
        ConfigError: an unknown suite or task, or examples asked for that a task has not.
        DataError: documents cannot be had.
    """
    if suite not in SUITES:
        raise ConfigError(f"unknown suite {suite!r}; choose one of {', '.join(SUITES)}.")
    wanted = tuple(dict.fromkeys(names)) or SUITES[suite]
    with contained():
        local = suite == "local"
        loaded = _local(wanted, data, include_path) if local else _from_harness(wanted, include_path)
        for name, task in loaded.tasks.items():
            _set_options(name, task, num_fewshot, max_gen_tokens)
    return loaded


def _local(names: Iterable[str], data: Path | None, include_path: Path | None) -> LoadedTasks:
    """Tasks over local files."""
    if data is None:
        raise ConfigError("the suite local reads files: name their folder with --benchmark-data.")
    if not data.is_dir():
        raise DataError(f"{data}: no such folder of benchmark files; check --benchmark-data.")
    further = _manager([include_path], defaults=False) if include_path is not None else None
    added = [] if further is None else further.all_tasks
    loaded = LoadedTasks([], {})
    for name in names:
        if name in added or not (name in LOCAL_TASKS or name.startswith(_SUBJECT)):
            _check_names([name], [*LOCAL_TASKS, *added], "local")
            loaded.extend(_by_name(further, [name]))
            continue
        configs = _local_configs(name, data)
        loaded.tasks.update({config["task"]: _configured(config) for config in configs})
        weighted = {"acc": True} if name == "mmlu" else {}
        loaded.benchmarks.append(Benchmark(name, tuple(config["task"] for config in configs), weighted))
        deviation = configs[0]["metadata"].get("deviation")
        if deviation:
            loaded.notes.append(f"{name}: {deviation}")
    return loaded


def _local_configs(name: str, data: Path) -> list[dict[str, Any]]:
    """Configurations of the tasks that a name stands for, one but for MMLU as a whole."""
    if name != "mmlu" and not name.startswith(_SUBJECT):
        return [_task_file(name) | {"dataset_kwargs": {"folder": str(data)}}]
    subjects = mmlu_subjects(str(data))
    if name != "mmlu":
        _check_names([name], [_SUBJECT + subject for subject in subjects], "local")
        subjects = [name.removeprefix(_SUBJECT)]
    configs: list[dict[str, Any]] = []
    for subject in subjects:
        config = _task_file("mmlu") | {"task": _SUBJECT + subject}
        config["description"] = str(config["description"]).format(subject=subject.replace("_", " "))
        config["dataset_kwargs"] = {"folder": str(data), "subject": subject}
        configs.append(config)
    return configs


def _configured(config: dict[str, Any]) -> Any:
    """The harness's task for a configuration."""
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config=dict(config))


def _task_file(name: str) -> dict[str, Any]:
    """A task file of the package, with the files that it includes."""
    content: dict[str, Any] = yaml.load((TASK_FOLDER / f"{name}.yaml").read_text("utf-8"), Loader=_TaskLoader)
    included = content.pop("include", None)
    return content if included is None else _task_file(included.removesuffix(".yaml")) | content


class _TaskLoader(yaml.SafeLoader):
    """Reads `!function` as a function of this package, and of no other."""


def _own_function(loader: _TaskLoader, node: yaml.ScalarNode) -> Any:
    module, _, name = str(loader.construct_scalar(node)).rpartition(".")
    if not f"{module}.".startswith(_OWN_FUNCTIONS):
        raise yaml.constructor.ConstructorError(
            None, None, f"{module} is not part of the package", node.start_mark
        )
    return getattr(importlib.import_module(module), name)


_TaskLoader.add_constructor("!function", cast(Any, _own_function))


def _from_harness(names: Sequence[str], include_path: Path | None) -> LoadedTasks:
    """Tasks that lm-evaluation-harness comes with, and those of a folder."""
    import lm_eval

    root = Path(lm_eval.__file__).parent / "tasks"
    further = [] if include_path is None else [include_path]
    manager = _manager([root / folder for folder in _FOLDERS] + further, defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = _manager(further, defaults=True)
        _check_names(names, manager.all_tasks, "open-llm")
    return _by_name(manager, names)


def _manager(folders: Sequence[Path], *, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder of task files; check --include-path.")
    return TaskManager(include_defaults=defaults, include_path=[str(folder) for folder in folders])


def _check_names(names: Iterable[str], known: Sequence[str], suite: str) -> None:
    """Refuses names that no task has."""
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "check the name."
        listed = f"Those of the suite are {', '.join(LOCAL_TASKS)}."
        raise ConfigError(f"the suite {suite} has no task {name!r}; {hint} {listed}")


def _by_name(manager: Any, names: Iterable[str]) -> LoadedTasks:
    """Tasks and groups from a manager of the harness; a tag stands for its tasks."""
    loaded = LoadedTasks([], {})
    for name in names:
        try:
            found = manager.load([name])
        except Exception as error:
            if isinstance(error, DataError | ConfigError):
                raise
            raise _translated(name, error) from error
        group, tasks = found["groups"].get(name), found["tasks"]
        if group is not None and group.aggregate_metric_list:
            weighted = {each.metric: bool(each.weight_by_size) for each in group.aggregate_metric_list}
            benchmarks = [Benchmark(name, tuple(tasks), weighted)]
        else:
            benchmarks = [Benchmark(task, (task,)) for task in tasks]
        loaded.extend(LoadedTasks(benchmarks, tasks))
    return loaded


def _translated(name: str, error: Exception) -> DataError | ConfigError:
    """What went wrong while a task was loaded: mostly its documents are on the hub and the hub is out of reach."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, OSError | ValueError | ConnectionError):
        return DataError(
            f"the data set of {name} cannot be had from the hub: {reason[:300]} Check the network and HF_HUB_OFFLINE; "
            "or use files that you have, without any network: --suite local --benchmark-data FOLDER."
        )
    return ConfigError(f"task {name} cannot be loaded ({type(error).__name__}): {reason[:300]}")


def _set_options(name: str, task: Any, num_fewshot: int, max_gen_tokens: int | None) -> None:
    """Sets the number of examples and the longest generation, as the harness's own entry point does."""
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"{name} runs code that the model writes, and is marked as unsafe for that; Distal does not run it. Choose "
            "other tasks (--tasks)."
        )
    if task.get_config("num_fewshot") != 0:  # a task that fixes it at 0 has its examples in the prompt
        task.set_config(key="num_fewshot", value=num_fewshot)
    examples = task.get_config("fewshot_config")
    source = getattr(examples, "split", None) or getattr(examples, "samples", None)
    if task.get_config("num_fewshot") and not (source or task.has_training_docs()):
        raise ConfigError(
            f"{name} has no documents beside those that are evaluated, so that no examples can be shown in the prompt; "
            "leave out --num-fewshot, or choose other tasks (--tasks)."
        )
    if max_gen_tokens is not None and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value={"max_gen_toks": max_gen_tokens}, update=True)
