"""Rows per second and peak memory of the way from a file to scores, against the number of rows.

The claim: memory does not grow with the data, except by at most a few hundred bytes for each row. Preferences with
synthetic texts of 20 to 60 words (prompt, chosen and rejected together 60 to 180) are written into a temporary folder,
then every stage runs as a process of its own:

    check          what `distal data check` reads of the texts: fates, lengths, repeats, different prompts
    convert        JSON lines to Parquet
    check-parquet  the check of that Parquet file
    check-held-out the check, and which of a tenth as many held-out prompts occur exactly or nearly
    tokenise       `prepare_dataset` into an empty cache
    load           `prepare_dataset` from that cache, and the fingerprint of the rows
    batches        every row once, as training reads them: optimizer batches of 64 pairs
    score          `score_dataset` with a random Llama of one layer and width 16

Peak memory is the maximum resident set size that the operating system reports; `anonymous` is the part of it that
belongs to no file (sampled 20 times a second), `before` the resident set after the imports.

Rows that the output file holds already stay there, but for those that are measured anew.

    python benchmarks/streaming.py                                   # 10,000 and 100,000 rows
    python benchmarks/streaming.py --rows 100000 1000000             # an hour and more on one core
    python benchmarks/streaming.py --rows 1000000 --stages check convert tokenise load batches
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "streaming.json"
STAGES = ("check", "convert", "check-parquet", "check-held-out", "tokenise", "load", "batches", "score")
HEADER = ["stage", "rows", "rows/s", "rows per CPU second", "peak MiB", "anonymous MiB", "before MiB"]
NEEDS = {
    "load": ("tokenise",),
    "batches": ("tokenise",),
    "score": ("tokenise",),
    "check-parquet": ("convert",),
}
WORDS = 5000
VOCABULARY = 2000


def words() -> list[str]:
    """Words of two to four syllables, the same in every process."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    return ["".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(WORDS)]


def texts(n: int, seed: int) -> Iterator[dict[str, str]]:
    """Preferences; one of fifty repeats an earlier prompt, as real sets do."""
    draw, known = random.Random(seed), words()

    def text() -> str:
        return " ".join(draw.choices(known, k=draw.randint(20, 60)))

    prompt = text()
    for _ in range(n):
        prompt = prompt if draw.random() < 0.02 else text()
        yield {"prompt": prompt, "chosen": " " + text(), "rejected": " " + text()}


def write(path: Path, n: int, seed: int = 1) -> None:
    """Preferences as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in texts(n, seed):
            file.write(json.dumps(row) + "\n")


def make_tokenizer() -> Any:
    """A byte-level BPE trained on sentences of the same words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core: Any = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(  # pyright: ignore[reportAttributeAccessIssue]
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator((row["chosen"] for row in texts(2000, 2)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def check(folder: Path, name: str = "rows.jsonl", held_out: str | None = None) -> None:
    """The check of texts."""
    from distal.data import open_preferences
    from distal.data.checking import CheckSettings, check_data

    others = () if held_out is None else (open_preferences(folder / held_out),)
    found = check_data(open_preferences(folder / name), CheckSettings(held_out=others))
    assert found.report.n_kept > 0


def convert(folder: Path) -> None:
    """JSON lines to Parquet."""
    from distal.data import open_preferences
    from distal.data.conversion import convert as convert_rows

    convert_rows(open_preferences(folder / "rows.jsonl"), folder / "rows.parquet", overwrite=True)


def prepared(folder: Path, tokenizer: Any) -> Any:
    """The tokenised rows."""
    from distal.data import prepare_dataset

    return prepare_dataset(folder / "rows.jsonl", tokenizer, max_length=1024, cache_dir=folder / "cache")


def load(folder: Path, tokenizer: Any) -> None:
    """Rows from the cache, and what identifies them."""
    assert prepared(folder, tokenizer).fingerprint


def batches(folder: Path, tokenizer: Any) -> None:
    """Every row once, in the order of an epoch."""
    from distal.data import OptimizerBatchSampler, collate_units

    dataset = prepared(folder, tokenizer)
    total = 0
    for batch in OptimizerBatchSampler(dataset, 64):
        total += sum(len(row.input_ids) for row in collate_units(dataset[i] for i in batch))
    assert total == dataset.report.n_tokens


def score(folder: Path, tokenizer: Any, model: Any) -> None:
    """The score of every row."""
    from distal.scoring import score_dataset

    score_dataset(model, prepared(folder, tokenizer), progress=None)


def work_of(stage: str, folder: Path) -> Callable[[], object]:
    """What a stage does, with all that it needs loaded."""
    if stage.startswith(("check", "convert")):
        for name in ("distal.data.checking", "distal.data.conversion"):
            importlib.import_module(name)  # before the memory is read
        return {
            "check": lambda: check(folder),
            "check-parquet": lambda: check(folder, "rows.parquet"),
            "check-held-out": lambda: check(folder, held_out="held-out.jsonl"),
            "convert": lambda: convert(folder),
        }[stage]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    importlib.import_module("distal.scoring")
    logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape))
    return {
        "tokenise": lambda: prepared(folder, tokenizer),
        "load": lambda: load(folder, tokenizer),
        "batches": lambda: batches(folder, tokenizer),
        "score": lambda: score(folder, tokenizer, model),
    }[stage]


def memory(field: str) -> float:
    """A field of what Linux says of this process's memory, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {field}")


def run_stage(stage: str, folder: Path) -> None:
    """One stage in this process; prints JSON."""
    work = work_of(stage, folder)
    before, anonymous, over = memory("VmRSS"), [memory("RssAnon")], threading.Event()

    def sample() -> None:
        while not over.wait(0.05):
            anonymous[0] = max(anonymous[0], memory("RssAnon"))

    watch = threading.Thread(target=sample, daemon=True)
    watch.start()
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    over.set()
    watch.join()
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": memory("VmHWM"),
        "anonymous_mib": anonymous[0],
        "before_mib": before,
    }
    print(json.dumps(found))


def measure(stage: str, folder: Path) -> dict[str, Any]:
    """Run this script again for one stage and read what it prints."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "MALLOC_ARENA_MAX": "2",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--stage", stage, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"stage {stage} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(n: int, stages: list[str]) -> Iterator[list[Any]]:
    """All stages for one number of rows."""
    with tempfile.TemporaryDirectory(prefix="distal-streaming-") as name:
        folder = Path(name)
        write(folder / "rows.jsonl", n)
        if "check-held-out" in stages:
            write(folder / "held-out.jsonl", max(1, n // 10), seed=3)
        for stage in stages:
            found = measure(stage, folder)
            speeds = [round(n / found[kind]) for kind in ("seconds", "cpu_seconds")]
            sizes = [round(found[f"{name}_mib"]) for name in ("peak", "anonymous", "before")]
            yield [stage, n, *speeds, *sizes]


def main() -> None:
    """All stages, a table, a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--note", default="", help="kept with the figures, such as who else used the machine")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage[0], Path(arguments.stage[1]))
        return
    wanted = {need for stage in arguments.stages for need in NEEDS.get(stage, ())} | set(arguments.stages)
    stages = [stage for stage in STAGES if stage in wanted]
    environment = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "note": arguments.note,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[int, int], list[Any]] = {}
    if arguments.output.exists():  # what was measured before stays, but for what is measured anew
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
        rows = {(row[1], STAGES.index(row[0])): row for row in known}
    print(f"| {' | '.join(HEADER)} |\n|---|{'---:|' * (len(HEADER) - 1)}")
    for n in arguments.rows:
        for row in measured(n, stages):
            rows[n, STAGES.index(row[0])] = row
            print(f"| {row[0]} | {' | '.join(f'{cell:,}' for cell in row[1:])} |", flush=True)
            record = {
                "environment": environment,
                "header": HEADER,
                "rows": [rows[key] for key in sorted(rows)],
            }
            arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
