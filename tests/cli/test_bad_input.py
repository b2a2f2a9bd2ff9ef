"""Each thing that a user may get wrong: one message, its exit code, no traceback, nothing lost."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import Result

Run = Callable[..., Result]
CONFIG, DATA, MODEL, NON_FINITE, OUTPUT = 2, 3, 4, 5, 6


@pytest.fixture
def refused(align: Run, tmp_path: Path) -> Callable[..., str]:
    """Runs `distal align`, which must fail with this exit code and leave no trace; returns the message."""

    def run(code: int, *words: object, **options: object) -> str:
        result = align(*words, **options)
        assert result.exit_code == code, result.output
        assert result.stderr.count("Error: ") == 1
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()
        return " ".join(result.stderr.split("Error: ")[1].split())

    return run


def file(tmp_path: Path, content: str | bytes, name: str = "bad.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = {"prompt": "w3", "chosen": " w4", "rejected": " w5"}


def test_missing_data_file(refused: Callable[..., str], pairs_file: Path) -> None:
    message = refused(DATA, data=pairs_file.with_name("pears.jsonl"))
    assert "pears.jsonl" in message


def test_empty_data_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "bad.jsonl" in refused(DATA, data=file(tmp_path, ""))


def test_broken_json_names_the_line(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused(DATA, data=file(tmp_path, lines(GOOD, GOOD) + '{"prompt": "w3", \n'))
    assert "bad.jsonl" in message
    assert "line 3" in message


def test_broken_compressed_file(refused: Callable[..., str], tmp_path: Path) -> None:
    whole = gzip.compress(lines(*[GOOD] * 50).encode())
    assert "bad.jsonl.gz" in refused(DATA, data=file(tmp_path, whole[:-20], "bad.jsonl.gz"))


def test_wrong_columns_are_listed_with_the_expected_ones(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused(DATA, data=file(tmp_path, lines({"question": "w3", "answer": "w4"})))
    for column in ("question", "answer", "chosen", "rejected", "completion", "label"):
        assert column in message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "w3", "chosen": "", "rejected": " w5"}, "no text"),
        ({"prompt": "w3", "chosen": " w4", "rejected": " w4"}, "same text"),
        ({"prompt": "w3 " * 40, "chosen": " w4", "rejected": " w5"}, "max_length"),
    ],
    ids=["empty-completion", "chosen-equals-rejected", "too-long"],
)
def test_rows_that_cannot_be_used_are_counted_or_refused(
    align: Run, refused: Callable[..., str], tmp_path: Path, row: dict[str, str], reason: str
) -> None:
    usable = [GOOD | {"prompt": f"w{i}"} for i in range(3, 23)]
    data = file(tmp_path, lines(*usable[:7], row, *usable[7:]))
    option = {"truncation": "error"} if reason == "max_length" else {"on_bad_rows": "error"}
    message = refused(DATA, data=data, max_length=24, **option)
    assert "row 7" in message
    assert reason in message
    result = align(data=data, max_length=24)
    assert result.exit_code == 0, result.output
    assert "21 rows read, 20 kept (paired), 1 left out" in result.stdout


def test_no_row_is_usable(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused(DATA, data=file(tmp_path, lines(*[GOOD | {"chosen": ""}] * 3)))
    assert "3" in message
    assert "empty" in message


def test_only_one_label(refused: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": "w3", "completion": f" w{i}", "label": True} for i in range(4, 20)]
    message = refused(DATA, data=file(tmp_path, lines(*rows)), objective="aot_unpaired")
    assert "label" in message


def test_held_out_part_with_one_label_is_refused_before_training(
    refused: Callable[..., str], samples_file: Path, tmp_path: Path
) -> None:
    message = refused(DATA, data=samples_file, objective="aot_unpaired", eval_size=1)
    assert "held-out data have the label" in message
    liked = file(tmp_path, lines(*({"prompt": "w3", "completion": f" w{i}", "label": True} for i in (4, 5))))
    assert "only the label true" in refused(
        DATA, data=samples_file, objective="aot_unpaired", eval_data=liked
    )


def test_pairs_for_training_and_samples_held_out(refused: Callable[..., str], samples_file: Path) -> None:
    assert "paired" in refused(DATA, eval_data=samples_file)


def test_paired_objective_on_unpaired_rows(refused: Callable[..., str], samples_file: Path) -> None:
    message = refused(CONFIG, data=samples_file, objective="dpo")
    assert "aot_unpaired" in message


def test_objective_is_held_against_the_data_before_a_model_is_loaded(
    refused: Callable[..., str], model_folder: Path, samples_file: Path, tmp_path: Path
) -> None:
    empty = Path(shutil.copytree(model_folder, tmp_path / "no-weights"))
    (empty / "model.safetensors").unlink()
    assert "objective: dpo needs pairs" in refused(CONFIG, model=empty, data=samples_file, objective="dpo")


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("loggers", "message"),
    [
        (
            "[tensorboard, codecarbon]",
            "report_to: codecarbon is not installed or not set up; pip install codecarbon",
        ),
        ("wandv", "report_to: 'wandv' is unknown; did you mean wandb?"),
        ("paper", "report_to: 'paper' is unknown; choose among azure_ml, clearml"),
    ],
)
def test_loggers_that_are_unknown_or_not_installed(
    distal: Run,
    pairs_file: Path,
    model_folder: Path,
    tmp_path: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    loggers: str,
    message: str,
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_codecarbon_available", lambda: False)
    out = tmp_path / "out"
    given = ("--model", model_folder, "--data", pairs_file, "--output-dir", out, "--report-to", loggers)
    result = distal("align", *given, *words)
    assert result.exit_code == CONFIG, result.output
    assert message in result.stderr
    assert not out.exists()


def test_fewer_held_out_rows_than_a_certificate_needs(refused: Callable[..., str]) -> None:
    message = refused(DATA, eval_size=1)
    assert "held-out data: 1 pair; at least 2 are needed; hold out more (eval_size)" in message


def test_too_few_prompts_to_hold_any_out(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "hold out" in refused(DATA, data=file(tmp_path, lines(GOOD)))


def test_missing_model_folder(refused: Callable[..., str], model_folder: Path) -> None:
    message = refused(MODEL, model=model_folder.with_name("tiny-lama"))
    assert "Did you mean" in message
    assert "tiny-llama" in message


def test_hub_model_without_network(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/no-model" in refused(MODEL, model="nobody/no-model")


def test_nan_in_the_weights(refused: Callable[..., str], model_folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(model_folder, tmp_path / "damaged"))
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    message = refused(MODEL, model=damaged)
    assert "model.norm.weight has 1 of 32 entries" in message


def test_reference_with_another_vocabulary(
    refused: Callable[..., str], make_llama: Callable[..., Any], tmp_path: Path
) -> None:
    make_llama(vocab_size=32).save_pretrained(tmp_path / "small")
    assert "embeds only 32" in refused(MODEL, reference=tmp_path / "small")


def test_loss_that_is_not_finite(align: Run, tmp_path: Path) -> None:
    result = align(learning_rate=1e30, max_grad_norm=0, max_steps=6)
    assert result.exit_code == NON_FINITE, result.output
    assert result.stderr.count("Error: ") == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "failed"
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lerning-rate", "1"], "did you mean learning_rate"),
        (["--lora-r", "8"], "no effect without lora"),
        (["--seed", "yes"], "seed: expected a whole number, got 'yes'"),
        (["stray"], "'stray' is no option"),
    ],
)
def test_options(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused(CONFIG, *words)


def test_adapter_for_layers_that_do_not_exist(refused: Callable[..., str]) -> None:
    message = refused(CONFIG, "--lora", "--lora-target-modules=[no_such_layer]")
    assert "no_such_layer" in message
    assert "--lora-target-modules" in message


def test_quantised_weights_need_an_adapter(refused: Callable[..., str]) -> None:
    assert "quantization: 4bit weights cannot be trained themselves; add lora" in refused(
        CONFIG, quantization="4bit"
    )


def test_revision_of_a_local_folder(refused: Callable[..., str]) -> None:
    assert "revision: 'main' has no effect" in refused(CONFIG, revision="main")


def test_launcher_whose_processes_do_not_know_of_each_other(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "the launcher started 2 processes, but transformers sees 1" in refused(CONFIG)


def test_missing_configuration_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "no such configuration file" in refused(CONFIG, "--config", tmp_path / "none.yaml")


def test_output_folder_with_another_run(align: Run, tmp_path: Path) -> None:
    assert align().exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    result = align()
    assert result.exit_code == OUTPUT
    assert "already holds a run (finished" in result.stderr
    # even asked to overwrite, a run that cannot start leaves the old one alone
    assert align("--overwrite", data=tmp_path / "none.jsonl").exit_code == DATA
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert align("--overwrite", learning_rate=1e-4).exit_code == 0
    weights = tmp_path / "out" / "model.safetensors"
    assert weights.read_bytes() != before[weights]


def test_output_folder_with_files_of_the_user(align: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    file(tmp_path / "out", "mine", "notes.txt")
    for words in ([], ["--overwrite"], ["--resume"]):
        result = align(*words)
        assert result.exit_code == OUTPUT
        assert "notes.txt" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_too_little_disk_space_is_seen_before_training(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(total=1000, used=0, free=1000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    message = refused(OUTPUT)
    assert "too little disk space" in message
    assert "1000 B are free" in message


@pytest.mark.parametrize("writer", ["checkpoint", "result"])
def test_disk_that_fills_up_on_the_way(
    align: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    from transformers import PreTrainedModel

    saved: list[str] = []
    original = PreTrainedModel.save_pretrained

    def save(self: object, folder: str, **kwargs: Any) -> None:
        saved.append(str(folder))
        if ("checkpoint-4" in str(folder)) == (writer == "checkpoint") and len(saved) > 1:
            Path(folder).mkdir(exist_ok=True)
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(cast(PreTrainedModel, self), folder, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)
    result = align(save_steps=2, max_steps=4 if writer == "checkpoint" else 2)
    assert result.exit_code == OUTPUT, result.output
    assert "no space left on the disk" in result.stderr
    assert "--resume" in result.stderr
    out = tmp_path / "out"
    assert not (out / "model.safetensors").exists()
    assert (out / "checkpoint-2" / "model.safetensors").stat().st_size > 1000
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", original)
    again = align("--resume", save_steps=2, max_steps=4 if writer == "checkpoint" else 2)
    assert again.exit_code == 0, again.output
    assert "Going on from checkpoint-2" in again.stdout


def test_resume_under_other_options(align: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distal.training import AlignmentTrainer

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AlignmentTrainer, "training_step", interrupt)
        assert align().exit_code == 130
    result = align("--resume", learning_rate=5e-4, beta=0.3)
    assert result.exit_code == CONFIG
    assert "learning_rate: the run has 0.001, now 0.0005" in result.stderr
    assert "beta: the run has 0.01, now 0.3" in result.stderr
    result = align("--resume", micro_batch_size=2)  # memory only
    assert result.exit_code == 0, result.output
    assert "Going on from the beginning" in result.stdout


def test_nothing_to_resume(refused: Callable[..., str]) -> None:
    assert "nothing to resume" in refused(OUTPUT, "--resume")
