"""`distal align` from end to end on a tiny model: what it writes, and that it can be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import Result

from distal.data import prepare_dataset
from distal.scoring import score_dataset

# PEFT asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Run = Callable[..., Result]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def test_full_fine_tuning(align: Run, model_folder: Path, tmp_path: Path) -> None:
    result = align(save_steps=2)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    # told before training, and at the end where to look
    assert "40 rows read, 40 kept (paired), 0 left out" in result.stdout
    assert "36 pairs to train on, 4 held out" in result.stdout
    assert "violation ratio" in result.stdout
    assert str(out) in result.stdout
    # a model that loads, generates, and has moved
    before, after = weights_of(model_folder), weights_of(out)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert json.loads((out / "config.json").read_text())["use_cache"] is True
    assert AutoTokenizer.from_pretrained(out)("w3 w63")["input_ids"] == [3, 63]
    # safetensors only, in the result (the Trainer's checkpoints hold optimizer states)
    assert not list(out.glob("*.bin"))
    assert not list(out.glob("*.pt"))
    assert (out / "reward_quantiles.png").read_bytes().startswith(b"\x89PNG")
    state = json.loads((out / "run.json").read_text())
    assert (state["state"], state["steps"]) == ("finished", 2)
    assert state["versions"]["torch"] == metadata.version("torch")
    assert not (out / ".distal.lock").exists()
    assert not (out / ".partial").exists()
    # tokenised rows are kept, and the next run finds them
    (kept,) = [path for path in (tmp_path / "cache" / "rows").iterdir() if path.name != "locks"]
    assert (kept / "rows.arrow").is_file()


def test_certificate_is_that_of_the_saved_model(
    align: Run, model_folder: Path, tmp_path: Path, make_pairs: Callable[..., Any]
) -> None:
    held_out = tmp_path / "held_out.jsonl"
    rows = make_pairs(30, seed=9)
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert align(eval_data=held_out, learning_rate=1e-2).exit_code == 0
    certificate = json.loads((tmp_path / "out" / "dominance.json").read_text())
    # scored anew from the files on disk
    data = prepare_dataset(rows, AutoTokenizer.from_pretrained(tmp_path / "out"))
    policy, reference = (
        score_dataset(AutoModelForCausalLM.from_pretrained(folder), data, progress=None)
        for folder in (tmp_path / "out", model_folder)
    )
    rewards = policy - reference
    assert certificate["n_preferred"] == 30
    assert certificate["mean_gap"] == pytest.approx(np.mean(rewards[0::2] - rewards[1::2]), abs=1e-4)
    assert certificate["accuracy"] == pytest.approx(np.mean(rewards[0::2] > rewards[1::2]))


def test_lora(align: Run, model_folder: Path, tmp_path: Path) -> None:
    result = align("--lora", lora_r=4, learning_rate=1e-2)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    model = AutoPeftModelForCausalLM.from_pretrained(out)
    assert model.peft_config["default"].r == 4
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad():
        adapted = model(ids).logits
        with model.disable_adapter():
            plain = model(ids).logits
    torch.testing.assert_close(plain, AutoModelForCausalLM.from_pretrained(model_folder)(ids).logits)
    assert not torch.allclose(adapted, plain)


def test_going_on_with_an_adapter(align: Run, model_folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert align("--lora", output_dir=first, learning_rate=1e-2).exit_code == 0
    result = align(adapter=first, output_dir=tmp_path / "second", learning_rate=1e-2)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "second" / "adapter_model.safetensors").is_file()


def test_truly_unpaired_rows(align: Run, samples_file: Path, tmp_path: Path) -> None:
    result = align(data=samples_file, objective="aot_unpaired", eval_size=12)
    assert result.exit_code == 0, result.output
    certificate = json.loads((tmp_path / "out" / "dominance.json").read_text())
    assert certificate["kind"] == "unpaired"
    assert certificate["n_preferred"] + certificate["n_other"] >= 12
    assert certificate["accuracy"] is None


def test_untouched_model_has_an_undefined_ratio(align: Run, tmp_path: Path) -> None:
    assert align(learning_rate=0).exit_code == 0
    certificate = json.loads((tmp_path / "out" / "dominance.json").read_text())
    assert certificate["violation_ratio"] is None
    assert certificate["decision"] == "undefined"
    assert "undefined" in (tmp_path / "out" / "README.md").read_text()


def test_resolved_configuration_gives_the_same_run(align: Run, distal: Run, tmp_path: Path) -> None:
    assert align(objective="dpo").exit_code == 0
    again = distal("align", "--config", tmp_path / "out" / "distal.yaml", "--output-dir", tmp_path / "again")
    assert again.exit_code == 0, again.output
    first, second = weights_of(tmp_path / "out"), weights_of(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)
    files = [yaml.safe_load((tmp_path / run / "distal.yaml").read_text()) for run in ("out", "again")]
    for content in files:
        del content["output_dir"]
    assert files[0] == files[1]
    cards = [(tmp_path / run / "dominance.json").read_text() for run in ("out", "again")]
    assert cards[0] == cards[1]


def test_configuration_file_and_command_line(
    distal: Run, model_folder: Path, pairs_file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {model_folder}\ndata: {pairs_file}\noutput_dir: {tmp_path / 'out'}\nmax_steps: 5\n"
        "global-batch-size: 8\nlearning_rate: 1e-3\nreport_to: none\ndisable_tqdm: true\n"
    )
    result = distal("align", "--config", config, "--max-steps", 1, "--objective=dpo")
    assert result.exit_code == 0, result.output
    resolved = yaml.safe_load((tmp_path / "out" / "distal.yaml").read_text())
    assert (resolved["max_steps"], resolved["objective"], resolved["beta"]) == (1, "dpo", 0.1)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"] == 1


def test_model_card(align: Run, pairs_file: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(pairs_file.read_text())
    assert align("--lora", objective="dpo", eval_data=held_out).exit_code == 0
    path = tmp_path / "out" / "README.md"
    header = ModelCard.load(path).data.to_dict()
    assert header["library_name"] == "peft"
    assert header["base_model"] == "tiny-llama"
    assert {"distal", "dpo", "lora"} <= set(header["tags"])
    assert "license" not in header
    text = path.read_text()
    verdict = json.loads((tmp_path / "out" / "dominance.json").read_text())["verdict"]
    for part in (
        verdict,
        "| beta | 0.1 |",
        "8 pairs",
        "40 rows read",
        "2406.05882",
        "AutoPeftModelForCausalLM",
    ):
        assert part in text
    for folder in (tmp_path, pairs_file.parent):  # folders of this machine are nobody else's business
        assert str(folder) not in text


def test_chat_template_from_a_file(align: Run, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"w{i}"}],
            "chosen": [{"role": "assistant", "content": f"w{i + 20}"}],
            "rejected": [{"role": "assistant", "content": f"w{i + 40}"}],
        }
        for i in range(3, 20)
    ]
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = align(data=data)
    assert refused.exit_code == 3
    assert "chat template" in refused.stderr
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{{ 'w60 ' if m.role == 'user' else 'w61 ' }}{{ m.content + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'w61 ' }}{% endif %}"
    )
    result = align(data=data, chat_template=template)
    assert result.exit_code == 0, result.output
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template.read_text()


def test_dry_run_tells_and_writes_nothing(align: Run, tmp_path: Path) -> None:
    result = align("--dry-run", max_steps=7)
    assert result.exit_code == 0, result.output
    for told in (
        "peak memory",
        "time per step",
        "training, 7 steps",
        "strategy single",
        "Nothing was written",
    ):
        assert told in result.stdout
    assert not (tmp_path / "out").exists()
    machine = align("--dry-run", "--json", strategy="recompute")
    told = json.loads(machine.stdout)
    assert told["strategy"] == "recompute"
    assert told["peak_bytes"] == sum(told["memory"].values())


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_batch_larger_than_the_data_is_noted_in_one_line(align: Run, words: list[str]) -> None:
    result = align(*words, global_batch_size=64)
    assert result.exit_code == 0, result.output
    noted = "note: global_batch_size=64 is larger than the data set of 36 units"
    assert [line[: len(noted)] for line in result.stdout.splitlines() if "larger than" in line] == [noted]
    assert "larger than" not in result.stderr
    assert "UserWarning" not in result.output


def test_json_without_dry_run_is_refused(align: Run, tmp_path: Path) -> None:
    result = align("--json")
    assert result.exit_code == 2
    assert "without --dry-run it has no effect" in result.stderr
    assert not (tmp_path / "out").exists()
