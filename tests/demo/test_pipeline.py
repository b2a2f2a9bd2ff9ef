from __future__ import annotations

import io
import json
import socket

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from distal.demo import pipeline as pipeline_module
from distal.demo import run_demo
from distal.errors import OutputError

KEYS = {
    "objective", "n_eval", "violation_ratio", "violation_ratio_ci", "auc", "mean_gap", "judge_before",
    "judge_after", "seconds",
}  # fmt: skip


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_summary_has_exactly_the_promised_keys_and_agrees_with_the_result(quick_demo):
    summary = read(quick_demo.output_dir / "summary.json")
    assert set(summary) == KEYS
    assert summary["objective"] == "aot_unpaired"
    assert summary["n_eval"] == 200
    assert summary["auc"] == quick_demo.after.auc
    assert summary["violation_ratio"] == quick_demo.after.violation_ratio
    low, high = summary["violation_ratio_ci"]
    assert 0 <= low <= summary["violation_ratio"] <= high <= 1
    for key in ("judge_before", "judge_after"):
        assert 0 <= summary[key] <= 1
    assert summary["seconds"] > 0


def test_before_alignment_the_violation_ratio_is_undefined(quick_demo):
    content = read(quick_demo.output_dir / "dominance-before.json")
    assert content["violation_ratio"] is None
    assert content["violation_ratio_ci"] is None
    assert content["decision"] == "undefined"
    assert content["auc"] == 0.5
    assert content["mean_gap"] == 0.0


def test_alignment_moves_held_out_rewards_apart(quick_demo):
    assert quick_demo.after.auc > 0.55
    assert quick_demo.after.mean_gap > 0


def test_everything_is_written(quick_demo):
    folder = quick_demo.output_dir
    assert (folder / "reward_quantiles.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list((folder / "tensorboard").glob("events.*"))
    assert read(folder / "demo.json")["state"] == "finished"
    assert "CC BY 4.0" in (folder / "data" / "sentence-polarity.LICENSE.txt").read_text()
    for card in ("reference/README.md", "aligned/README.md"):
        assert (folder / card).read_text(encoding="utf-8").startswith("---\n")
    assert not list(folder.rglob("*.bin"))  # no pickles


def test_samples_page_holds_the_samples(quick_demo):
    page = (quick_demo.output_dir / "samples.md").read_text(encoding="utf-8")
    assert page.count("\n- `") == 50
    assert "nothing was picked" in page


def test_both_models_load_and_give_the_certified_rewards(quick_demo):
    """The mean reward gap, computed here from the saved folders one text at a time."""
    folder = quick_demo.output_dir
    tokenizer = AutoTokenizer.from_pretrained(folder / "aligned")
    models = [AutoModelForCausalLM.from_pretrained(folder / name).eval() for name in ("aligned", "reference")]
    rewards = {True: [], False: []}
    for line in (folder / "data" / "held_out.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = torch.tensor([[*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            policy, reference = (-model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) for model in models)
        rewards[row["label"]].append(policy - reference)
    assert len(rewards[True]) == len(rewards[False]) == 100
    gap = sum(rewards[True]) / 100 - sum(rewards[False]) / 100
    assert gap == pytest.approx(quick_demo.after.mean_gap, abs=1e-3)


def test_the_written_configuration_is_one_that_align_accepts(quick_demo):
    from distal.workflow.resolve import resolve_options

    options = resolve_options(quick_demo.output_dir / "align.yaml", [])
    assert options.training.objective == "aot_unpaired"
    assert options.model.model == str(quick_demo.output_dir / "reference")


def test_a_second_run_repeats_the_first_moves_it_aside_and_needs_no_network(quick_demo, monkeypatch):
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *args: pytest.fail(f"connected to {args[1:]}"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail(f"looked up {args}"))
    folder = quick_demo.output_dir
    screen = io.StringIO()
    again = run_demo(folder, quick=True, console=Console(file=screen, width=100))
    moved = folder.with_name(folder.name + "-1")
    assert f"is now in {moved}" in screen.getvalue().replace("\n", "")
    assert "undefined" in screen.getvalue()
    first, second = (read(path / "summary.json") for path in (moved, folder))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert again.generations_after == quick_demo.generations_after


def test_a_foreign_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(pipeline_module, "_run", lambda *args: pytest.fail("work was done"))
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        run_demo(tmp_path, quick=True, console=Console(file=io.StringIO()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interruption_says_where_things_are(tmp_path, monkeypatch):
    def interrupted(*args: object, **kwargs: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_module, "train_language_model", interrupted)
    screen = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "demo", quick=True, console=Console(file=screen, width=300))
    assert "Interrupted" in screen.getvalue()
    assert str(tmp_path / "demo") in screen.getvalue()
    assert read(tmp_path / "demo" / "demo.json")["state"] == "interrupted"
