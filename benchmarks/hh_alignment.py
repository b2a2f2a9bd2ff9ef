"""Alignment on real human preferences: HH-RLHF helpful-base, a small model, AOT beside DPO, full and LoRA.

A tokenizer and a small Llama are trained on the text of the training rows (both sides: a warm-up that knows nothing
of preferences). `distal align`, the command line itself, then aligns that model in several ways, and each run's
certificate on held-out prompts is read from its `dominance.json`.

The file is the data set's official *test* split. It is split again here, by prompt; a number from this script is
no result on HH's test set and must not be reported as one. With a model this small, expect an accuracy near 0.55:
the run shows that the path works and what it costs, not what the method can do.

    python benchmarks/hh_alignment.py --data helpful-base.jsonl.gz --work runs/hh
    python benchmarks/hh_alignment.py ... --only aot-full dpo-full     # some of the runs
    python benchmarks/hh_alignment.py ... --table                      # only print what there is
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from distal.demo.language_model import LanguageModelConfig, train_language_model
from distal.demo.tokenizer import train_tokenizer

PAIRED = {"global_batch_size": 64, "num_train_epochs": 1}
UNPAIRED = {"global_batch_size": 96, "num_train_epochs": 1, "objective": "aot_unpaired"}
FULL = {"learning_rate": 1e-4}
LORA = {"lora": True, "lora_r": 16, "lora_alpha": 32, "learning_rate": 1e-3}
RUNS: dict[str, dict[str, object]] = {
    "aot-full": {**PAIRED, **FULL, "objective": "aot"},
    "dpo-full": {**PAIRED, **FULL, "objective": "dpo"},
    "aot-lora": {**PAIRED, **LORA, "objective": "aot"},
    "dpo-lora": {**PAIRED, **LORA, "objective": "dpo"},
    "aot-unpaired-full": {**UNPAIRED, **FULL},
    "aot-unpaired-lora": {**UNPAIRED, **LORA},
}
HELD_OUT = 700
MAX_LENGTH = 256
"""Tokens; longer rows are left out (and counted), so that a run takes minutes on two CPU cores."""
BETA = 0.1


def read_pairs(path: Path) -> list[dict[str, str]]:
    """Rows of the transcript file; order kept, nothing cleaned (that is what `distal align` is asked to do)."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def first_turn(row: dict[str, str]) -> str:
    """What decides on which side of the split a row falls: conversations with the same opening stay together."""
    return row["chosen"].split("\n\nAssistant:")[0]


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_unpaired(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """Two liked rows for each disliked one: of every pair the chosen side, of every second the rejected side.

    The last `Assistant:` mark inside the shared beginning cuts prompt from completion, as for paired transcripts.
    """
    mark = "\n\nAssistant:"
    samples: list[dict[str, object]] = []
    for index, row in enumerate(rows):
        pair = (row["chosen"], row["rejected"])
        shared = next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), min(map(len, pair)))
        cut = pair[0][:shared].rfind(mark) + len(mark)
        samples.append({"prompt": pair[0][:cut], "completion": pair[0][cut:], "label": True})
        if index % 2 == 0:
            samples.append({"prompt": pair[1][:cut], "completion": pair[1][cut:], "label": False})
    return samples


def prepare(data: Path, work: Path, epochs: float) -> None:
    """Split, write the files, warm the model up."""
    rows = read_pairs(data)
    prompts = sorted({first_turn(row) for row in rows})
    random.Random(0).shuffle(prompts)
    held: set[str] = set()
    for prompt in prompts:
        if sum(first_turn(row) in held for row in rows) >= HELD_OUT:
            break
        held.add(prompt)
    train = [row for row in rows if first_turn(row) not in held]
    held_rows = [row for row in rows if first_turn(row) in held]
    write_rows(work / "train.jsonl", train)
    write_rows(work / "held_out.jsonl", held_rows)
    write_rows(work / "train_unpaired.jsonl", as_unpaired(train))
    write_rows(work / "held_out_unpaired.jsonl", as_unpaired(held_rows))
    texts = [row[side] for row in train for side in ("chosen", "rejected")]
    texts = [text for text in texts if len(text) < 4 * MAX_LENGTH]  # about what the runs will keep
    tokenizer = train_tokenizer(texts, vocab_size=2048)
    config = LanguageModelConfig(hidden_size=128, layers=3, heads=4, mlp_size=352, max_length=MAX_LENGTH)
    started = time.monotonic()
    model = train_language_model(texts, tokenizer, config=config, epochs=epochs)
    print(
        f"warm-up: {len(texts)} texts, {model.num_parameters():,} parameters, {time.monotonic() - started:.0f} s"
    )
    model.save_pretrained(work / "base")
    tokenizer.save_pretrained(work / "base")


def align(name: str, options: dict[str, object], work: Path, launcher: Sequence[str] = ()) -> None:
    """One `distal align` run, into the folder `name`.

    Args:
        name: of the run.
        options: of `distal align`, besides those that all runs share.
        work: folder that `prepare` filled.
        launcher: words between `python` and `-m distal`, to start several processes.
    """
    suffix = "_unpaired" if options.get("objective") == "aot_unpaired" else ""
    settings = {
        "model": str(work / "base"),
        "data": str(work / f"train{suffix}.jsonl"),
        "eval_data": str(work / f"held_out{suffix}.jsonl"),
        "output_dir": str(work / name),
        "reference_cache_dir": str(work / "cache"),
        "max_length": MAX_LENGTH,
        "beta": BETA,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "tokens_per_micro_batch": 4096,
        "save_strategy": "no",
        "seed": 0,
        **options,
    }
    shutil.rmtree(work / name, ignore_errors=True)
    config = work / f"{name}.yaml"
    config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    started = time.monotonic()
    subprocess.run([sys.executable, *launcher, "-m", "distal", "align", "--config", str(config)], check=True)
    (work / name / "seconds.json").write_text(json.dumps(time.monotonic() - started))


def table(work: Path) -> str:
    """Markdown table of the certificates."""
    lines = [
        "| run | n (chosen, rejected) | accuracy | AUC | mean gap (nats) | violation ratio (95 % interval) | s |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in RUNS:
        path = work / name / "dominance.json"
        if not path.exists():
            continue
        c = json.loads(path.read_text())
        seconds = json.loads((work / name / "seconds.json").read_text())
        low, high = c["violation_ratio_ci"] or (float("nan"), float("nan"))
        accuracy = "-" if c.get("accuracy") is None else f"{c['accuracy']:.3f}"
        lines.append(
            f"| {name} | {c['n_preferred']}, {c['n_other']} | {accuracy} | {c['auc']:.3f} | {c['mean_gap']:.3f} "
            f"| {c['violation_ratio']:.4f} ({low:.4f} to {high:.4f}) | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prepare once, run what was asked for, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="helpful-base.jsonl.gz")
    parser.add_argument("--work", type=Path, default=Path("runs/hh"))
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--epochs", type=float, default=4.0, help="passes of the warm-up over the text")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        arguments.work.mkdir(parents=True, exist_ok=True)
        if not (arguments.work / "base").exists():
            prepare(arguments.data, arguments.work, arguments.epochs)
        for name in arguments.only:
            align(name, RUNS[name], arguments.work)
    print(table(arguments.work))


if __name__ == "__main__":
    main()
