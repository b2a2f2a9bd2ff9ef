"""How well `distal align --dry-run` foretells: its peak memory and time per step beside those of the run itself.

Three sizes of a random Llama and three ways of training. Forecast and run are processes of their own; the run takes
three optimizer steps, and its peak is the maximum resident set size that the operating system reports. Goal: the peak
within 15 %.

    python benchmarks/dry_run.py            # a table, and benchmarks/results/dry_run.json; about 5 minutes
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

VOCABULARY = 8192
SIZES = {"3M": (128, 4), "12M": (256, 8), "42M": (512, 8)}  # hidden size, layers
WAYS: dict[str, dict[str, Any]] = {
    "full, recompute": {"strategy": "recompute"},
    "LoRA, deferred": {"strategy": "deferred", "lora": True},
    "LoRA, retain": {"strategy": "retain", "lora": True},
}
RESULTS = Path(__file__).parent / "results" / "dry_run.json"
STEPS = 3
PAIRS = 24
"""Of an optimizer batch: more micro-batches than the forecast tries, so that it must extrapolate."""


def make_model(size: str) -> LlamaForCausalLM:
    """Random weights: neither memory nor time depends on their values."""
    hidden, layers = SIZES[size]
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            max_position_embeddings=256,
            pad_token_id=0,
        )
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    words: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_pairs(n: int) -> list[dict[str, str]]:
    """Pairs of very different lengths."""
    random = Random(0)

    def text(low: int, high: int) -> str:
        return "".join(f" w{random.randrange(3, VOCABULARY)}" for _ in range(random.randrange(low, high)))

    return [{"prompt": text(4, 40), "chosen": text(4, 120), "rejected": text(4, 120)} for _ in range(n)]


def make_trainer(size: str, way: str, folder: str, callbacks: Any = None) -> Any:
    """The run that is foretold."""
    from peft import LoraConfig

    from distal.training import AlignmentConfig, AlignmentTrainer

    options = dict(WAYS[way])
    lora = LoraConfig(r=8, target_modules="all-linear") if options.pop("lora", False) else None
    return AlignmentTrainer(
        make_model(size),
        args=AlignmentConfig(
            output_dir=folder,
            reference_cache_dir=folder,
            objective="aot",
            global_batch_size=PAIRS,
            tokens_per_micro_batch=512,
            reference_tokens_per_batch=512,
            max_steps=STEPS,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=make_pairs(PAIRS * STEPS),
        processing_class=make_tokenizer(),
        peft_config=lora,
        callbacks=callbacks,
    )


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self._start)


def run_row(what: str, size: str, way: str) -> None:
    """One forecast or run in this process; prints JSON."""
    from distal.training.forecast import forecast

    with tempfile.TemporaryDirectory() as folder:
        if what == "forecast":
            print(json.dumps(forecast(make_trainer(size, way, folder)).as_dict()))
            return
        clock = Clock()
        make_trainer(size, way, folder, [clock]).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({"peak_bytes": peak, "seconds_per_step": sorted(clock.seconds)[len(clock.seconds) // 2]})
    )


def measure(what: str, size: str, way: str) -> dict[str, Any]:
    """Run this script again for one row and read what it prints."""
    command = [sys.executable, __file__, "--row", what, size, way]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"row {what} {size} {way} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """All rows, a table, a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", nargs=3, metavar=("WHAT", "SIZE", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.row:
        run_row(*arguments.row)
        return
    rows: list[dict[str, Any]] = []
    print("| model | way | peak, foretold | peak, measured | ratio | s per step, foretold | measured |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for size in SIZES:
        for way in WAYS:
            told, seen = measure("forecast", size, way), measure("run", size, way)
            row = {
                "model": size,
                "way": way,
                "forecast": told,
                "run": seen,
                "peak_ratio": told["peak_bytes"] / seen["peak_bytes"],
                "time_ratio": told["seconds_per_step"] / seen["seconds_per_step"],
            }
            rows.append(row)
            print(
                f"| {size} | {way} | {told['peak_bytes'] / 2**20:.0f} MiB | {seen['peak_bytes'] / 2**20:.0f} MiB | "
                f"{row['peak_ratio']:.2f} | {told['seconds_per_step']:.2f} | {seen['seconds_per_step']:.2f} |",
                flush=True,
            )
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
