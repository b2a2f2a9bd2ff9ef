"""`distal evaluate benchmarks`: its table, what it keeps, adapters, interruption, refusals."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import Result

from tests.evaluation import benchmark_files as files

pytest.importorskip("lm_eval", reason="the extra benchmarks is not installed")
# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write_files(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]) -> list[Path]:
    """Two models with long enough contexts, one with a short one."""
    folder = tmp_path_factory.mktemp("models")
    return [
        files.save_model(folder / "before", make_llama, seed=0),
        files.save_model(folder / "after", make_llama, seed=1),
        files.save_model(folder / "short", make_llama, seed=0, context=100),
    ]


@pytest.fixture
def benchmarks(distal: Run, data: Path, models: list[Path], tmp_path: Path) -> Run:
    """Runs the verb with what it needs; options replace that, None drops it."""

    def run(*words: object, **options: object) -> Result:
        settings: dict[str, object] = {
            "model": models[1],
            "before": models[0],
            "suite": "local",
            "benchmark-data": data,
            "output": tmp_path / "out",
            "tasks": "arc_easy,winogrande",
        }
        given = settings | {key.replace("_", "-"): value for key, value in options.items()}
        words = (*(f"--{key}={value}" for key, value in given.items() if value is not None), *words)
        return distal("evaluate", "benchmarks", *words)

    return run


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_everything_in_one_run(benchmarks: Run, models: list[Path], tmp_path: Path) -> None:
    environment, generator = dict(os.environ), torch.get_rng_state()
    result = benchmarks("--json", "--limit=2", tasks=None, max_gen_tokens=4)
    assert result.exit_code == 0, result.output
    assert dict(os.environ) == environment
    assert torch.equal(torch.get_rng_state(), generator)
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "out" / "benchmarks.json").read_text("utf-8"))
    assert report["schema"] == "distal.benchmarks/1"
    rows = {(row["task"], row["metric"]): row for row in report["tasks"]}
    assert [name for name, _ in rows] == [
        *(
            "arc_easy",
            "arc_easy",
            "arc_challenge",
            "arc_challenge",
            "mmlu",
            "truthfulqa_mc1",
            "truthfulqa_mc2",
        ),
        *("winogrande", "gsm8k", "gsm8k"),
    ]
    folder = tmp_path / "out" / "tasks"
    for row in rows.values():
        if row["task"] in ("mmlu", "gsm8k"):
            continue
        sides = [records(folder / side / f"{row['task']}.jsonl") for side in ("before", "after")]
        before, after = ([d["metrics"][row["metric"]] for d in side] for side in sides)
        assert (row["before"], row["after"]) == pytest.approx((np.mean(before), np.mean(after)))
        change = np.subtract(after, before)
        assert row["difference"] == pytest.approx(np.mean(change))
        assert row["difference_stderr"] == pytest.approx(np.std(change, ddof=1) / np.sqrt(row["n"]))
        assert row["n"] == 2
    assert report["groups"] == {"mmlu": [f"mmlu_{subject}" for subject in files.MMLU]}
    assert rows["mmlu", "acc"]["n"] == 4
    settings, versions = report["settings"], report["versions"]
    assert (settings["num_fewshot"], settings["limit"], settings["chat_template_applied"]) == (0, 2, False)
    assert [settings["models"][side]["model"] for side in ("before", "after")] == [str(m) for m in models[:2]]
    assert settings["models"]["after"]["context"] == 1024
    assert versions["lm_eval"]
    assert versions["tasks"]["gsm8k"] == "3.0"
    assert any("only the first 2 documents" in note for note in report["notes"])
    assert "8 tasks with 18 documents, the first 2 of each task" in result.stderr
    result = benchmarks("--limit=2", tasks=None, max_gen_tokens=4)
    assert "16 of 16 tasks were finished before and are kept" in result.stderr
    for shown in ("arc_easy", "acc_norm", "winogrande", "difference", "p (Holm)", "Holm's method", "±"):
        assert shown in result.stdout
    assert f"Written: {tmp_path / 'out' / 'benchmarks.json'}" in result.stdout


def test_one_model_alone(benchmarks: Run) -> None:
    result = benchmarks("--json", before=None, tasks="winogrande")
    (row, *_) = json.loads(result.stdout)["tasks"]
    assert row["after"] is not None
    assert row["before"] is row["difference"] is row["p_value"] is None


def test_the_same_model_twice_differs_by_nothing(benchmarks: Run, models: list[Path]) -> None:
    report = json.loads(
        benchmarks("--json", model=models[0], tasks="winogrande,gsm8k", max_gen_tokens=4).stdout
    )
    assert report["identical"]
    for row in report["tasks"]:
        assert (row["difference"], row["difference_stderr"], row["p_value"]) == (0.0, 0.0, 1.0)
    assert any("every difference is exactly 0" in note for note in report["notes"])
    assert "both models have the same weights" in report["notes"]


def test_an_adapter_is_compared_with_its_own_base(
    benchmarks: Run, models: list[Path], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from distal.scoring.loading import load_model, load_tokenizer

    adapter = tmp_path / "adapter"
    torch.manual_seed(0)
    wrapped = get_peft_model(load_model(models[0]), LoraConfig(r=4, init_lora_weights=False))
    wrapped.save_pretrained(str(adapter))
    load_tokenizer(models[0]).save_pretrained(adapter)
    alone = json.loads(benchmarks("--json", model=adapter, before=None, tasks="truthfulqa_mc2").stdout)[
        "tasks"
    ][0]
    explicit = benchmarks("--json", model=adapter, tasks="truthfulqa_mc2", output=tmp_path / "other")
    assert alone == json.loads(explicit.stdout)["tasks"][0]
    assert alone["before"] != alone["after"]


# --- what is finished is kept --------------------------------------------------------------------------------


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that are evaluated; the fourth one is interrupted when the list begins with `stop`."""
    from distal.workflow import benchmarking

    names: list[str] = []
    evaluate = benchmarking.evaluate_task

    def noted(model: Any, name: str, *given: Any, **options: Any) -> Any:
        names.append(name)
        if names[0] == "stop" and len(names) == 4:
            raise KeyboardInterrupt
        return evaluate(model, name, *given, **options)

    monkeypatch.setattr(benchmarking, "evaluate_task", noted)
    return names


def test_what_is_finished_is_kept(
    benchmarks: Run, evaluated: list[str], models: list[Path], tmp_path: Path
) -> None:
    evaluated[:] = ["stop"]
    stopped = benchmarks("--json")
    assert stopped.exit_code == 130
    assert stopped.stdout == ""
    assert "2 of 4 tasks are finished and kept" in stopped.stderr
    assert not (tmp_path / "out" / "benchmarks.json").exists()

    evaluated.clear()
    resumed = benchmarks("--json", "--batch-size=2")
    assert evaluated == ["arc_easy", "winogrande"]
    assert "2 of 4 tasks were finished before and are kept" in resumed.stderr
    whole = benchmarks("--json", "--batch-size=2", output=tmp_path / "whole")
    assert json.loads(resumed.stdout)["tasks"] == json.loads(whole.stdout)["tasks"]

    damaged = tmp_path / "out" / "tasks" / "after" / "arc_easy.jsonl"
    damaged.write_text(damaged.read_text("utf-8").replace("1.0", "0.0", 1), encoding="utf-8")
    evaluated.clear()
    assert benchmarks("--json", "--batch-size=2").stdout == resumed.stdout
    assert evaluated == ["arc_easy"]

    report = (tmp_path / "out" / "benchmarks.json").read_bytes()
    for words, options, message in (
        (["--limit=2"], {}, "limit was null, now 2"),
        ([], {"model": models[2]}, "weights was"),
        ([], {"tasks": "arc_easy"}, "has results that the new report would not have (winogrande)"),
        ([], {"before": None}, "compares with a model before"),
    ):
        result = benchmarks(*words, **options)
        assert result.exit_code == 6, result.output
        assert message in result.stderr
        assert (tmp_path / "out" / "benchmarks.json").read_bytes() == report
    assert benchmarks("--limit=2", "--overwrite", tasks="arc_easy").exit_code == 0
    assert json.loads((tmp_path / "out" / "benchmarks.json").read_text("utf-8"))["tasks"][0]["n"] == 2


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "code", "message"),
    [
        (["--limit=0"], {}, 2, "limit must be at least 1; got 0"),
        ([], {"suite": "glue"}, 2, "unknown suite 'glue'; choose one of open-llm, local"),
        ([], {"tasks": "arc_esay"}, 2, "no task 'arc_esay'; did you mean arc_easy?"),
        ([], {"tasks": "mmlu_virologi"}, 2, "no task 'mmlu_virologi'; did you mean mmlu_virology?"),
        ([], {"benchmark_data": None}, 2, "name their folder with --benchmark-data"),
        ([], {"benchmark_data": "nowhere"}, 3, "nowhere: no such folder of benchmark files"),
        ([], {"suite": "open-llm"}, 2, "benchmark_data has no effect"),
        (["--num-fewshot=1"], {}, 2, "arc_easy has no documents beside those that are evaluated"),
        (["--apply-chat-template"], {}, 2, "has no chat template to apply"),
        ([], {"model": "missing/folder/here"}, 4, "no such model or tokenizer folder: missing/folder/here"),
        ([], {"include_path": "nowhere", "tasks": "mine"}, 2, "nowhere: no such folder of task files"),
    ],
)
def test_refusals(
    benchmarks: Run, words: list[str], options: dict[str, Any], code: int, message: str, tmp_path: Path
) -> None:
    result = benchmarks("--json", *words, **options)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert not (tmp_path / "out").exists()


def test_a_context_that_is_too_short(benchmarks: Run, models: list[Path], tmp_path: Path) -> None:
    refused = benchmarks("--json", model=models[2], before=None, tasks="gsm8k")
    assert refused.exit_code == 4
    assert (
        "context of 100 tokens has no room for a prompt beside the 256 tokens that gsm8k may"
        in refused.stderr
    )
    cut = benchmarks("--json", model=models[2], before=None, tasks="truthfulqa_mc1", output=tmp_path / "cut")
    (note,) = [note for note in json.loads(cut.stdout)["notes"] if "lost their beginning" in note]
    assert note.startswith("after: 6 of 6 requests were longer than the model's context")


def test_files_that_are_missing_or_broken(benchmarks: Run, tmp_path: Path) -> None:
    (tmp_path / "arc-easy-test.jsonl").write_text("{broken\n", encoding="utf-8")
    for tasks, message in (
        ("arc_easy", "arc-easy-test.jsonl: broken JSON at line 1"),
        ("gsm8k", "gsm8k-test.jsonl.gz: no such file"),
        ("mmlu", "mmlu.zip: no such file"),
    ):
        result = benchmarks("--json", benchmark_data=tmp_path, tasks=tasks)
        assert result.exit_code == 3, result.output
        assert message in result.stderr


def test_a_hub_that_is_out_of_reach(benchmarks: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "empty")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    result = benchmarks("--json", suite="open-llm", benchmark_data=None, tasks="winogrande")
    assert result.exit_code == 3, result.output
    assert "the data set of winogrande cannot be had from the hub" in result.stderr
    assert "--suite local --benchmark-data" in result.stderr


def test_without_the_extra(benchmarks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = benchmarks("--json")
    assert result.exit_code == 2
    assert "pip install 'lm-eval>=0.4.13'" in result.stderr


def test_an_output_that_cannot_be_a_folder(benchmarks: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    result = benchmarks("--json", output=tmp_path / "file")
    assert result.exit_code == 6
    assert "choose a folder that is writable (--output)" in result.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    foreign = tmp_path / "out" / "tasks" / "after" / "winogrande.json"
    foreign.parent.mkdir(parents=True)
    for path in (foreign, foreign.with_suffix(".jsonl")):
        path.write_text('{"mine": 1}', encoding="utf-8")
    result = benchmarks("--json")
    assert result.exit_code == 6
    assert "is not a result of this version; nothing was touched" in result.stderr
    assert foreign.read_text(encoding="utf-8") == '{"mine": 1}'


def test_weights_that_give_no_numbers(
    benchmarks: Run, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distal.workflow import benchmarking

    load = benchmarking.load_model

    def broken(*given: Any, **options: Any) -> Any:
        model = load(*given, **options)
        with torch.no_grad():
            model.lm_head.weight[5] = float("nan")
        return model

    monkeypatch.setattr(benchmarking, "load_model", broken)
    result = benchmarks("--json", before=None)
    assert result.exit_code == 5
    assert "log-likelihood of nan" in result.stderr


def test_tasks_of_ones_own(benchmarks: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "colours.py").write_text(
        "from datasets import Dataset\n"
        "def load(**_):\n"
        "    return {'test': Dataset.from_list([{'q': 'Grass is', 'a': 0}, {'q': 'Snow is', 'a': 1}])}\n",
        encoding="utf-8",
    )
    (folder / "colours.yaml").write_text(
        "task: colours\n"
        "custom_dataset: !function colours.load\n"
        "output_type: multiple_choice\n"
        "test_split: test\n"
        "doc_to_text: '{{q}}'\n"
        "doc_to_choice: [green, white]\n"
        "doc_to_target: a\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {version: 1.0}\n",
        encoding="utf-8",
    )
    result = benchmarks("--json", include_path=folder, tasks="colours,mmlu_virology")
    assert result.exit_code == 0, result.output
    assert {row["task"]: row["n"] for row in json.loads(result.stdout)["tasks"]} == {
        "colours": 2,
        "mmlu_virology": 2,
    }
    with (folder / "colours.yaml").open("a", encoding="utf-8") as file:
        file.write("unsafe_code: true\n")
    refused = benchmarks("--json", include_path=folder, tasks="colours", output=tmp_path / "unsafe")
    assert refused.exit_code == 2
    assert "marked as unsafe" in refused.stderr
