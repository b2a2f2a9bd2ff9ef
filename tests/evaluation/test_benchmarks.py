"""Benchmarks: the local tasks against the harness's own, log-likelihoods against our scores, the statistics."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from distal.errors import DataError
from distal.evaluation.benchmarks import (
    compare_benchmarks,
    documents,
    holm,
    paired_difference,
    paired_test,
)
from distal.evaluation.benchmarks.language_model import language_model
from distal.evaluation.benchmarks.paired import mean_and_stderr, pooled_stderr, unweighted_stderr
from distal.evaluation.benchmarks.records import TaskOutcome
from distal.evaluation.benchmarks.running import evaluate_task
from distal.evaluation.benchmarks.suites import LOCAL_TASKS, LoadedTasks, load_tasks
from distal.scoring import score_rows
from distal.scoring.loading import load_model, load_tokenizer
from distal.types import TokenRow
from tests.evaluation import benchmark_files as files

pytest.importorskip("lm_eval", reason="the extra benchmarks is not installed")

NEW_TOKENS = 6
SUBJECTS = [f"mmlu_{subject}" for subject in files.MMLU]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write_files(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def loaded(data: Path) -> LoadedTasks:
    return load_tasks("local", LOCAL_TASKS, data=data, max_gen_tokens=NEW_TOKENS)


@pytest.fixture(scope="module")
def model_and_tokenizer(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]) -> Any:
    folder = files.save_model(tmp_path_factory.mktemp("model"), make_llama)
    return load_model(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def outcomes(loaded: LoadedTasks, model_and_tokenizer: Any) -> dict[str, TaskOutcome]:
    environment = dict(os.environ)
    asked = language_model(*model_and_tokenizer, batch_size=4)
    found = {
        name: evaluate_task(
            asked, name, task, limit=None, seed=1, apply_chat_template=False, settings={"name": name}
        )
        for name, task in loaded.tasks.items()
    }
    assert dict(os.environ) == environment
    return found


# --- the tasks are the harness's own -------------------------------------------------------------------------


def hub_documents(name: str) -> dict[str, list[dict[str, Any]]]:
    """What the hub's data set has where the local file has what `benchmark_files` wrote."""
    if name.startswith("mmlu_"):
        splits = files.MMLU[name.removeprefix("mmlu_")]
        return {
            split: [
                {"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5]), "subject": "s"}
                for row in rows
            ]
            for split, rows in splits.items()
        }
    if name.startswith("truthfulqa"):
        rows = [
            {
                "question": doc["question"],
                "mc1_targets": {
                    "choices": [doc["best_answer"], *doc["incorrect_answers"]],
                    "labels": [1] + [0] * len(doc["incorrect_answers"]),
                },
                "mc2_targets": {
                    "choices": [a for a in doc["correct_answers"] if a] + doc["incorrect_answers"],
                    "labels": [1] * sum(map(bool, doc["correct_answers"]))
                    + [0] * len(doc["incorrect_answers"]),
                },
            }
            for doc in files.TRUTHFULQA
        ]
        return {"validation": rows}
    return {
        "arc_easy": {"test": files.ARC},
        "arc_challenge": {"test": files.ARC[:2]},
        "winogrande": {"validation": files.WINOGRANDE},
        "gsm8k": {"test": files.GSM8K},
        "hellaswag": {"validation": files.HELLASWAG},
    }[name]


def harness_task(name: str) -> Any:
    """The task of that name as lm-evaluation-harness ships it, over documents given here."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    root = Path(lm_eval.__file__).parent / "tasks"
    (path,) = [
        path
        for folder in ("arc", "gsm8k", "hellaswag", "mmlu/default", "truthfulqa", "winogrande")
        for path in (root / folder).glob(f"{name}.yaml" if name != "winogrande" else "default.yaml")
    ]
    config = load_yaml(path)
    assert config["task"] == name
    splits = {split: Dataset.from_list(rows) for split, rows in hub_documents(name).items()}
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(key) not in splits:
            config.pop(key, None)  # a split that is not here, where the examples of few-shot prompts are
    config |= {"custom_dataset": lambda **_: splits}
    return ConfigurableTask(config=config)


def asked_and_graded(task: Any, num_fewshot: int) -> Iterator[Any]:
    """Every request of a task, and what it makes of certain responses to them."""
    if task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=3)
    task.build_all_requests()
    texts = itertools.cycle(["It is 7.\n#### 7", "I think it is $1,010 or 10", "no number", "#### 10."])
    for number, instance in enumerate(task.instances):
        arguments = instance.args
        if instance.request_type == "generate_until":
            arguments = (arguments[0], {k: v for k, v in arguments[1].items() if k != "max_gen_toks"})
            instance.resps.append(next(texts))
        else:
            instance.resps.append((-((number * 7) % 5) - 0.25, False))
        yield instance.doc_id, arguments
    task.apply_filters()
    for key in task.instances[0].filtered_resps:
        for number, doc in enumerate(task.eval_docs):
            of_document = sorted((i for i in task.instances if i.doc_id == number), key=lambda i: i.idx)
            yield key, task.process_results(doc, [i.filtered_resps[key] for i in of_document])


@pytest.mark.parametrize(
    ("name", "num_fewshot"),
    [*((name, 0) for name in (*LOCAL_TASKS, *SUBJECTS) if name != "mmlu"), *((name, 1) for name in SUBJECTS)],
)
def test_a_local_task_asks_and_grades_as_the_harness_does(data: Path, name: str, num_fewshot: int) -> None:
    group = "mmlu" if name in SUBJECTS else name
    task = load_tasks("local", [group], data=data, num_fewshot=num_fewshot).tasks[name]
    ours = list(asked_and_graded(task, num_fewshot))
    theirs = list(asked_and_graded(harness_task(name), num_fewshot))
    assert len(ours) == len(theirs) > 3
    for (where, mine), (their_where, other) in zip(ours, theirs, strict=True):
        assert where == their_where
        assert mine == (pytest.approx(other) if isinstance(other, dict) else other)


def test_the_task_files_are_ones_that_the_harness_itself_can_load(data: Path) -> None:
    from lm_eval.tasks import TaskManager

    from distal.evaluation.benchmarks.suites import TASK_FOLDER

    manager = TaskManager(
        include_defaults=False,
        include_path=str(TASK_FOLDER),
        metadata={"folder": str(data), "subject": "virology"},
    )
    assert set(manager.all_tasks) == set(LOCAL_TASKS)
    for name in LOCAL_TASKS:
        (task,) = manager.load([name])["tasks"].values()
        assert len(task.eval_docs) > 1


def test_the_suite_of_the_hub_is_zero_shot_and_averaged_as_the_harness_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def on_the_hub(path: str, name: str | None = None, **_: Any) -> dict[str, Dataset]:
        asked.append((path, name))
        task = {
            "cais/mmlu": SUBJECTS[0],
            "openai/gsm8k": "gsm8k",
            "truthfulqa/truthful_qa": "truthfulqa_mc2",
        }[path]
        splits = {split: Dataset.from_list(rows) for split, rows in hub_documents(task).items()}
        return splits | {"train": next(iter(splits.values()))}

    monkeypatch.setattr(datasets, "load_dataset", on_the_hub)
    found = load_tasks("open-llm", ["gsm8k", "mmlu_stem", "truthfulqa_mc2"])
    assert [(b.name, len(b.tasks), dict(b.weighted)) for b in found.benchmarks] == [
        ("gsm8k", 1, {}),
        ("mmlu_stem", 19, {"acc": True}),
        ("truthfulqa_mc2", 1, {}),
    ]
    assert {task.get_config("num_fewshot") for task in found.tasks.values()} == {0}
    assert ("cais/mmlu", "abstract_algebra") in asked
    few = load_tasks("open-llm", ["gsm8k", "truthfulqa_mc2"], num_fewshot=3).tasks
    assert [task.get_config("num_fewshot") for task in few.values()] == [3, 0]  # TruthfulQA fixes its prompt


# --- numbers -------------------------------------------------------------------------------------------------


def test_log_likelihoods_are_our_scores(outcomes: dict[str, TaskOutcome], model_and_tokenizer: Any) -> None:
    model, tokenizer = model_and_tokenizer
    checked = 0
    for outcome in outcomes.values():
        for record in outcome.documents:
            if record["continuations"] is None:
                continue
            n = len(record["continuations"])
            prompts = record["prompt"] if isinstance(record["prompt"], list) else [record["prompt"]] * n
            rows: list[TokenRow] = []
            for prompt, continuation in zip(prompts, record["continuations"], strict=True):
                ids = tokenizer.encode(prompt + continuation)
                rows.append(TokenRow(ids, len(tokenizer.encode(prompt)), True, 0, 0))
            with torch.no_grad():
                scores = score_rows(model, rows).numpy()
            given = np.array([response[0][0] for response in record["responses"]])
            np.testing.assert_allclose(given, scores, atol=2e-4, rtol=1e-5)
            checked += n
    assert checked == sum(outcome.requests for outcome in outcomes.values()) - len(files.GSM8K)


def test_metrics_follow_from_the_log_likelihoods(outcomes: dict[str, TaskOutcome]) -> None:
    def scores(name: str) -> list[np.ndarray]:
        return [np.array([r[0][0] for r in d["responses"]]) for d in outcomes[name].documents]

    arc = [
        (values, doc["choices"]["text"], doc["choices"]["label"].index(doc["answerKey"]))
        for values, doc in zip(scores("arc_easy"), files.ARC, strict=True)
    ]
    hits = [values.argmax() == right for values, _, right in arc]
    normed = [(values / [len(text) for text in texts]).argmax() == right for values, texts, right in arc]
    assert outcomes["arc_easy"].metrics == {"acc": np.mean(hits), "acc_norm": np.mean(normed)}
    truth = [
        np.exp(values)[: sum(map(bool, doc["correct_answers"]))].sum() / np.exp(values).sum()
        for values, doc in zip(scores("truthfulqa_mc2"), files.TRUTHFULQA, strict=True)
    ]
    assert outcomes["truthfulqa_mc2"].metrics["acc"] == pytest.approx(np.mean(truth))
    best = [values.argmax() == 0 for values in scores("truthfulqa_mc1")]
    assert outcomes["truthfulqa_mc1"].metrics["acc"] == np.mean(best)
    gaps = [
        values.argmax() == int(doc["answer"]) - 1
        for values, doc in zip(scores("winogrande"), files.WINOGRANDE, strict=True)
    ]
    assert outcomes["winogrande"].metrics["acc"] == np.mean(gaps)
    for subject, name in zip(files.MMLU.values(), SUBJECTS, strict=True):
        right = ["ABCD".index(row[5]) for row in subject["test"]]
        assert outcomes[name].metrics["acc"] == np.mean([v.argmax() for v in scores(name)] == np.array(right))


def test_generations_are_greedy(outcomes: dict[str, TaskOutcome], model_and_tokenizer: Any) -> None:
    model, tokenizer = model_and_tokenizer
    records = [r for r in outcomes["gsm8k"].documents if r["filter"] == "strict-match"]
    assert len(records) == len(files.GSM8K)
    for record in records:
        ids = tokenizer.encode(record["prompt"])
        new: list[int] = []
        while len(new) < NEW_TOKENS and tokenizer.eos_token_id not in new:
            with torch.no_grad():
                new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        assert record["responses"] == [[tokenizer.decode(new, skip_special_tokens=True)]]


def test_the_table_is_what_the_harness_reports(
    loaded: LoadedTasks, outcomes: dict[str, TaskOutcome], model_and_tokenizer: Any
) -> None:
    import lm_eval
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig
    from lm_eval.models import huggingface

    evaluate: Any = lm_eval.evaluate
    plain_model: Any = huggingface.HFLM
    model, tokenizer = model_and_tokenizer
    group = Group("mmlu", aggregate_metric_list=[AggMetricConfig("acc", weight_by_size=True)])
    for name in SUBJECTS:
        group.add(loaded.tasks[name])
    reported = evaluate(
        lm=plain_model(pretrained=model, tokenizer=tokenizer, batch_size=3),
        task_dict={"tasks": dict(loaded.tasks), "groups": {"mmlu": group}},
        bootstrap_iters=10,
    )
    report = compare_benchmarks(loaded.benchmarks, {"after": outcomes}, settings={}, versions={})
    assert {row.task for row in report.rows} == set(LOCAL_TASKS)
    assert [row.task for row in report.subtasks] == SUBJECTS
    for row in [*report.rows, *report.subtasks]:
        name, _, kind = row.metric.partition(",")
        theirs = reported["results"][row.task]
        assert row.after == pytest.approx(theirs[f"{name},{kind or 'none'}"], abs=1e-5)
        assert row.after_stderr == pytest.approx(theirs[f"{name}_stderr,{kind or 'none'}"], abs=1e-5)
        assert row.before is row.difference is row.p_value is None


def test_no_cache_is_left(outcomes: dict[str, TaskOutcome], loaded: LoadedTasks) -> None:
    from lm_eval.caching import cache

    assert outcomes
    assert not [path for path in Path(cache.PATH).glob("*") if path.suffix == ".pickle"]
    assert all(not task.eval_docs.cache_files for task in loaded.tasks.values())


# --- statistics ----------------------------------------------------------------------------------------------


def test_statistics_against_numpy_scipy_and_the_harness() -> None:
    from lm_eval.api import metrics

    stats = pytest.importorskip("scipy.stats", reason="SciPy is the oracle of the exact test")
    random = np.random.default_rng(0)
    before, after = random.integers(0, 2, 50).astype(float), random.integers(0, 2, 50).astype(float)
    difference, stderr = paired_difference(list(before), list(after))
    assert difference == pytest.approx(np.mean(after - before))
    assert stderr == pytest.approx(np.std(after - before, ddof=1) / np.sqrt(50))
    won, lost = int((after > before).sum()), int((after < before).sum())
    assert paired_test(list(before), list(after)) == pytest.approx(stats.binomtest(won, won + lost).pvalue)
    before, after = random.random(50), random.random(50)
    difference, stderr = paired_difference(list(before), list(after))
    expected = 2 * stats.norm.sf(abs(difference) / (stderr or 0))
    assert paired_test(list(before), list(after)) == pytest.approx(expected)
    assert paired_test([0.5, 0.25], [0.75, 0.5]) is None  # every document differs alike: no spread to go by
    errors, sizes = [mean_and_stderr(list(random.random(n)))[1] or 0.0 for n in (4, 9, 17)], [4, 9, 17]
    assert pooled_stderr(errors, sizes) == pytest.approx(metrics.pooled_sample_stderr(errors, sizes))
    assert unweighted_stderr(errors) == pytest.approx(metrics.unweighted_mean_stderr(errors))
    assert mean_and_stderr([2.0]) == (2.0, None)


def test_holm_rejects_what_its_step_down_rule_rejects() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        p_values = list(random.random(6) ** 3)
        adjusted = holm(p_values)
        for level in (0.01, 0.05, 0.2):
            rejected: set[int] = set()
            for rank, place in enumerate(np.argsort(p_values)):
                if p_values[place] > level / (len(p_values) - rank):
                    break
                rejected.add(int(place))
            assert {i for i, p in enumerate(adjusted) if p is not None and p <= level} == rejected


def test_truth_does_not_underflow() -> None:
    doc = {"mc2_targets": {"labels": [1, 1, 0]}}
    results = [(-2000.0, False), (-2001.0, False), (-2000.5, False)]
    expected = (1 + np.exp(-1.0)) / (1 + np.exp(-1.0) + np.exp(-0.5))
    assert documents.share_of_truth(doc, results)["acc"] == pytest.approx(expected)


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "line", "message"),
    [
        (
            "arc-easy-test",
            '{"instruction": "What?", "answer": "answer1"}',
            "row 1: the instruction has another form",
        ),
        (
            "truthfulqa-en",
            '{"question": "q", "incorrect_answers": ["a"]}',
            "row 1: correct_answers holds 'None'",
        ),
        ("gsm8k-test", '{"question": "q", "answer": "7"}', "row 1: answer does not end in '#### NUMBER'"),
        ("gsm8k-test", '{"question": "q", "answer"', "broken JSON at line 1"),
        ("winogrande-val", "", "holds no rows"),
        (
            "hellaswag-val",
            '{"endings": ["a"], "label": 1}',
            "row 1: label is '1', expected the number of one of 1",
        ),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, stem: str, line: str, message: str) -> None:
    (tmp_path / f"{stem}.jsonl").write_text(line + "\n", encoding="utf-8")
    reader = {"arc": "arc_easy", "hellaswag": "hellaswag", "gsm8k": "gsm8k"}
    name = next((v for k, v in reader.items() if stem.startswith(k)), stem.partition("-")[0])
    with pytest.raises(DataError, match=message) as caught:
        getattr(documents, name)(str(tmp_path))
    assert f"{stem}.jsonl" in str(caught.value)


def test_archives_that_cannot_be_read(tmp_path: Path, data: Path) -> None:
    whole = (data / "mmlu.zip").read_bytes()
    (tmp_path / "mmlu.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"mmlu\.zip: not a zip archive, or damaged"):
        documents.mmlu_subjects(str(tmp_path))
    (tmp_path / "mmlu.zip").write_bytes(whole.replace(b"gravity", b"levity!"))
    with pytest.raises(DataError, match=r"high_school_physics_test\.csv is damaged"):
        documents.mmlu(str(tmp_path), "high_school_physics")
    with pytest.raises(DataError, match=r"data/test/botany_test\.csv is missing"):
        documents.mmlu(str(data), "botany")


def test_the_real_files_are_read_to_the_last_row(shared_data: Path) -> None:
    folder = str(shared_data / "benchmarks")
    sizes = {
        name: len(next(iter(getattr(documents, name)(folder).values())))
        for name in ("arc_easy", "arc_challenge", "winogrande", "truthfulqa", "gsm8k")
    }
    assert sizes == {
        "arc_easy": 2376,
        "arc_challenge": 1172,
        "winogrande": 1267,
        "truthfulqa": 817,
        "gsm8k": 1319,
    }
    subjects = documents.mmlu_subjects(folder)
    assert len(subjects) == 57
    assert [len(documents.mmlu(folder, subject)["test"]) for subject in (subjects[0], subjects[-1])] == [
        100,
        171,
    ]
