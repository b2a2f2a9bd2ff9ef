"""Peak memory against the optimizer batch, at one micro-batch size; Distal beside TRL.

The claim: with Distal's strategy `recompute` the memory of a step is that of one micro-batch (plus the rows
themselves), whatever `global_batch_size` is. TRL sorts within one device's micro-batch, so for the same objective it
must hold the whole optimizer batch in one forward pass; that is its best setting for this loss, with and without
activation checkpointing.

Every row is a fresh process. Peak memory is the maximum resident set size that the operating system reports, less
that of the process right before training.

    python benchmarks/memory.py            # a table, and benchmarks/results/memory.json
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
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
LENGTHS = {"prompt": 24, "chosen": 40, "rejected": 40}
RESULTS = Path(__file__).parent / "results" / "memory.json"


def make_model() -> LlamaForCausalLM:
    """3.1M parameters with random weights; memory does not depend on their values."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_rows(n: int) -> list[dict[str, str]]:
    """Random pairs, all of the same length, so that a bigger batch is nothing but more of the same."""
    generator = torch.Generator().manual_seed(1)

    def text(length: int) -> str:
        return " ".join(
            f"w{i}" for i in torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        )

    return [{name: " " + text(length) for name, length in LENGTHS.items()} for _ in range(n)]


def peak_mib() -> float:
    """Maximum resident set size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_distal(batch: int, micro_batch: int, folder: str) -> None:
    """Three optimizer steps of AOT."""
    from distal.training import AlignmentConfig, AlignmentTrainer

    AlignmentTrainer(
        make_model(),
        args=AlignmentConfig(
            output_dir=folder,
            reference_cache_dir=folder,
            objective="aot",
            global_batch_size=batch,
            micro_batch_size=micro_batch,
            strategy="recompute",  # the default would use the memory that is free
            reference_tokens_per_batch=micro_batch * 2 * (LENGTHS["prompt"] + LENGTHS["chosen"] + 2),
            max_steps=3,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=make_rows(256),
        processing_class=make_tokenizer(),
    ).train()


def run_trl(batch: int, checkpointing: bool, folder: str) -> None:
    """Three optimizer steps of TRL's AOT with the whole batch in one micro-batch."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    DPOTrainer(
        make_model(),
        args=DPOConfig(
            output_dir=folder,
            loss_type=["aot"],
            per_device_train_batch_size=batch,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=8,
            gradient_checkpointing=checkpointing,
            max_steps=3,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(make_rows(256)),
        processing_class=make_tokenizer(),
    ).train()


def measure(who: str, batch: int, micro_batch: int) -> dict[str, object]:
    """Run this script again for one row and read what it prints."""
    command = [sys.executable, __file__, "--row", who, str(batch), str(micro_batch)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"row {who} {batch} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_row(who: str, batch: int, micro_batch: int) -> None:
    """One row in this process; prints JSON."""
    make_model()
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        if who == "distal":
            run_distal(batch, micro_batch, folder)
        else:
            run_trl(batch, who == "trl-checkpointed", folder)
    print(json.dumps({"who": who, "batch": batch, "peak_mib": peak_mib(), "before_mib": before}))


def main() -> None:
    """All rows, a table, a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--row", nargs=3, metavar=("WHO", "BATCH", "MICRO"), help=argparse.SUPPRESS)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.row:
        run_row(arguments.row[0], int(arguments.row[1]), int(arguments.row[2]))
        return
    rows = [measure("distal", batch, arguments.micro_batch) for batch in (8, 256)]
    rows += [measure(who, batch, batch) for who in ("trl", "trl-checkpointed") for batch in (8, 256)]
    for row in rows:
        row["step_mib"] = float(row["peak_mib"]) - float(row["before_mib"])  # pyright: ignore[reportArgumentType]
    ratio = rows[1]["peak_mib"] / rows[0]["peak_mib"]  # pyright: ignore[reportOperatorIssue]
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "micro_batch_pairs": arguments.micro_batch,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment, "rows": rows, "distal_256_over_8": ratio}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(
        "| who | optimizer batch (pairs) | peak RSS (MiB) | above the imports (MiB) |\n|---|---:|---:|---:|"
    )
    for row in rows:
        print(f"| {row['who']} | {row['batch']} | {row['peak_mib']:.0f} | {row['step_mib']:.0f} |")
    print(f"\nDistal, 256 pairs against 8: {ratio:.3f}")


if __name__ == "__main__":
    main()
