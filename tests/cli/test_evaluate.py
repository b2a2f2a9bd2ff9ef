"""`distal evaluate dominance`: its numbers against scores computed here, its output, its refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import Result

from distal.data import prepare_dataset
from distal.scoring import score_dataset

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Run = Callable[..., Result]


@pytest.fixture
def evaluate(distal: Run, model_folder: Path, other_model_folder: Path, pairs_file: Path) -> Run:
    """Runs the verb with what it needs; options replace that, None drops it."""

    def run(*words: object, **options: object) -> Result:
        settings: dict[str, object] = {
            "model": other_model_folder,
            "reference": model_folder,
            "data": pairs_file,
        }
        given = [
            f"--{key.replace('_', '-')}={value}"
            for key, value in (settings | options).items()
            if value is not None
        ]
        return distal("evaluate", "dominance", *given, *words)

    return run


def test_json_is_the_only_thing_on_stdout_and_right(
    evaluate: Run, model_folder: Path, other_model_folder: Path, pairs_file: Path
) -> None:
    result = evaluate("--json", "--seed=3")
    assert result.exit_code == 0, result.output
    certificate = json.loads(result.stdout)
    data = prepare_dataset(str(pairs_file), AutoTokenizer.from_pretrained(model_folder))
    policy, reference = (
        score_dataset(AutoModelForCausalLM.from_pretrained(folder), data, progress=None)
        for folder in (other_model_folder, model_folder)
    )
    chosen, rejected = (policy - reference)[0::2], (policy - reference)[1::2]
    u, v = np.sort(chosen), np.sort(rejected)
    ratio = float((np.maximum(v - u, 0) ** 2).sum() / ((v - u) ** 2).sum())
    assert certificate["violation_ratio"] == pytest.approx(ratio, abs=1e-4)
    assert certificate["mean_gap"] == pytest.approx(float(np.mean(chosen) - np.mean(rejected)), abs=1e-4)
    assert certificate["accuracy"] == pytest.approx(np.mean(chosen > rejected))
    assert certificate["auc"] == pytest.approx(np.mean(chosen[:, None] > rejected[None, :]))
    low, high = certificate["violation_ratio_ci"]
    assert low <= ratio <= high
    assert certificate["seed"] == 3
    assert "40 rows read" in result.stderr


def test_table_for_people(evaluate: Run) -> None:
    result = evaluate()
    assert result.exit_code == 0, result.output
    assert "violation ratio" in result.stdout
    assert "share of pairs ranked right" in result.stdout


def test_model_against_itself_is_undefined(evaluate: Run, model_folder: Path) -> None:
    certificate = json.loads(evaluate("--json", model=model_folder).stdout)
    assert certificate["violation_ratio"] is None
    assert certificate["mean_gap"] == 0
    assert certificate["auc"] == 0.5


def test_unpaired_data(evaluate: Run, samples_file: Path) -> None:
    certificate = json.loads(evaluate("--json", data=samples_file).stdout)
    assert (certificate["n_preferred"], certificate["n_other"]) == (40, 20)
    assert certificate["accuracy"] is None


def test_adapter_is_measured_against_its_own_base(
    align: Run, evaluate: Run, model_folder: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    assert align("--lora", output_dir=adapter, learning_rate=1e-2).exit_code == 0
    alone = json.loads(evaluate("--json", model=adapter, reference=None).stdout)
    explicit = json.loads(evaluate("--json", model=adapter, reference=model_folder).stdout)
    assert alone["violation_ratio"] is not None
    assert alone["mean_gap"] == pytest.approx(explicit["mean_gap"], abs=1e-5)
    assert alone["violation_ratio"] == pytest.approx(explicit["violation_ratio"], abs=1e-4)


def test_files_are_written_and_never_replaced_unasked(evaluate: Run, tmp_path: Path) -> None:
    folder, plot = tmp_path / "result", tmp_path / "curves.png"
    first = evaluate(output=folder, plot=plot)
    assert first.exit_code == 0, first.output
    assert json.loads((folder / "dominance.json").read_text())["n_preferred"] == 40
    for figure in (plot, folder / "reward_quantiles.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")
        assert str(figure) in first.stdout
    before = (folder / "dominance.json").read_bytes()
    again = evaluate("--seed=5", output=folder)
    assert again.exit_code == 6
    assert "nothing was touched" in again.stderr
    assert (folder / "dominance.json").read_bytes() == before
    assert evaluate("--seed=5", "--overwrite", output=folder).exit_code == 0
    assert (folder / "dominance.json").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"reference": None}, 2, "reference is missing"),
        ({"model": "missing/folder/here"}, 4, "no such model or tokenizer folder: missing/folder/here"),
        ({"data": "missing.jsonl"}, 3, "missing.jsonl"),
        ({"dtype": "float8", "data": "missing.jsonl"}, 2, "dtype must be one of auto, float32"),
        ({"reference": None, "data": "missing.jsonl"}, 2, "reference is missing"),
        ({"reference": None, "model": "missing/folder/here"}, 4, "no such model or tokenizer folder"),
        ({"confidence": 1.5}, 2, "confidence must lie strictly between 0 and 1"),
        ({"resamples": 0}, 2, "resamples must be at least 39 for intervals of confidence 0.95"),
        ({"truncation": "shorten"}, 2, "truncation"),
        ({"threshold": 0.9}, 2, "threshold must lie in (0, 0.5]"),
        ({"slice_by": "tone"}, 2, "slice_by: tone: no such column"),
        ({"slice_by": "turns:few"}, 2, "behind the colon stands a number of bins"),
    ],
)
def test_refusals(evaluate: Run, options: dict[str, Any], code: int, message: str) -> None:
    result = evaluate("--json", **options)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1


@pytest.mark.parametrize(
    ("n_liked", "n_disliked", "message"),
    [(5, 1, "1 disliked sample;"), (1, 5, "1 liked sample;"), (None, 1, "1 pair;")],
)
def test_too_little_data_is_seen_before_a_model_is_loaded(
    evaluate: Run, model_folder: Path, tmp_path: Path, n_liked: int | None, n_disliked: int, message: str
) -> None:
    from tests.cli.conftest import write_rows

    rows: list[dict[str, Any]] = [{"prompt": "w3", "chosen": " w4", "rejected": " w5"}]
    if n_liked is not None:
        labels = [True] * n_liked + [False] * n_disliked
        rows = [
            {"prompt": "w3", "completion": f" w{i + 4}", "label": label} for i, label in enumerate(labels)
        ]
    data = write_rows(tmp_path / "few.jsonl", rows)
    empty = Path(shutil.copytree(model_folder, tmp_path / "no-weights"))
    (empty / "model.safetensors").unlink()
    result = evaluate("--json", data=data, model=empty)
    assert result.exit_code == 3, result.output
    assert f"{data}: {message} at least 2 are needed" in result.stderr


def test_overwrite_without_files(evaluate: Run) -> None:
    result = evaluate("--overwrite")
    assert result.exit_code == 2
    assert "no effect" in result.stderr


def test_everything_that_can_be_asked_is_in_one_document(
    evaluate: Run, pairs_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in pairs_file.read_text("utf-8").splitlines()]
    data = tmp_path / "with-source.jsonl"
    lines = [json.dumps(row | {"source": "web" if i % 2 else "books"}) for i, row in enumerate(rows)]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("--json", "--order=2", "--length-controlled", "--resamples=50", "--no-by-prompt")
    cuts = ("--slice-by=source", "--slice-by=turns", "--slice-by=completion_length:2")
    result = evaluate(*words, *cuts, data=data)
    assert result.exit_code == 0, result.output
    certificate = json.loads(result.stdout)
    found = [(part["attribute"], part["value"], part["status"]) for part in certificate["slices"]["slices"]]
    assert found[:3] == [("source", "books", "tested"), ("source", "web", "tested"), ("turns", "1", "tested")]
    assert len(found) == 5
    assert certificate["second_order"]["test"]["null"].startswith("the violation ratio of order 2")
    assert certificate["length_controlled"]["balance"]["strata"] >= 1
    shown = evaluate(*words[1:], *cuts, data=data)
    for expected in (
        "Slices",
        "at equal completion lengths",
        "violation ratio, second order",
        "Second order:",
    ):
        assert expected in shown.stdout


def test_several_models_and_their_comparison(
    evaluate: Run, model_folder: Path, other_model_folder: Path, tmp_path: Path
) -> None:
    named = (
        f"--model=twin={other_model_folder}",
        f"--model=start={model_folder}",
        "--compare",
        "--resamples=50",
    )
    output = tmp_path / "result"
    result = evaluate("--json", *named, output=output)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["schema"] == "distal.dominance-set/1"
    assert list(content["certificates"]) == [other_model_folder.name, "twin", "start"]
    assert content["certificates"]["twin"] == content["certificates"][other_model_folder.name]
    assert content["certificates"]["start"]["decision"] == "undefined"
    decisions = {(one["run"], one["other"]): one["decision"] for one in content["comparisons"]}
    assert len(decisions) == 6
    assert decisions["twin", other_model_folder.name] == "no_difference"
    assert decisions["twin", "start"] != "no_difference"
    assert json.loads((output / "dominance.json").read_text("utf-8")) == content
    assert (output / "reward_quantiles.png").read_bytes().startswith(b"\x89PNG")
    assert "No difference" in evaluate(*named).stdout


def test_models_that_read_other_tokens_are_refused(evaluate: Run, model_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-tokenizer"
    shutil.copytree(model_folder, other)
    content = json.loads((other / "tokenizer.json").read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["w3"], vocabulary["w4"] = vocabulary["w4"], vocabulary["w3"]
    (other / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    result = evaluate(f"--model=changed={other}", "--compare")
    assert result.exit_code == 2, result.output
    assert "have different tokenizers" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--compare",), "compare needs at least two models"),
        (("--model=a=x", "--model=a=y"), "two are called a"),
    ],
)
def test_models_that_cannot_be_compared(evaluate: Run, words: tuple[str, ...], message: str) -> None:
    result = evaluate(*words)
    assert result.exit_code == 2
    assert message in result.stderr
