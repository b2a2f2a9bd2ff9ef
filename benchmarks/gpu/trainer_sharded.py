"""The Trainer on several GPUs: DDP, FSDP2 and ZeRO-3 beside a single process; the same run, in how much memory?

Random weights in the shape of Qwen2.5-0.5B (so nothing is downloaded), AOT on random pairs, all weights trained with
AdamW, float32 without TF32, and once more with bf16 autocast. The same optimizer batches are run in one plain process
and on 1, 2, 4, ... GPUs in every way of sharing them out. For each: loss and gradient norm of every step, the final
weights, and the peak memory of the fullest GPU. Compared with the plain process: largest relative difference of losses
and of gradient norms, largest difference of a weight, and the cosine of the whole update (final minus first weights).

    python benchmarks/gpu/trainer_sharded.py --output $OUT/trainer_sharded.json   # all GPUs at hand, below 25 minutes
    python benchmarks/gpu/trainer_sharded.py --toy                                # DDP over gloo on the CPU, a minute

ZeRO-3 needs DeepSpeed to be installed. What cannot run is listed under `skipped`, with the reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config
from whole_batch import SHAPES

from distal.training import AlignmentConfig, AlignmentTrainer

WORDS = 500
"""Of the random texts; every shape's vocabulary holds them."""
STEPS = 4
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ddp": {},
    "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2}},
    "zero3": {
        "deepspeed": {
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": 1,
            "gradient_clipping": "auto",
            "bf16": {"enabled": "auto"},
            "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
        }
    },
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def pairs(n: int, length: int) -> list[dict[str, str]]:
    """Random pairs whose prompts and completions have uniformly random lengths up to half of `length`."""
    draw = Random(0)

    def text() -> str:
        return " ".join(
            f"w{draw.randrange(3, WORDS)}" for _ in range(draw.randrange(length // 8, length // 2 - 2))
        )

    return [{"prompt": text(), "chosen": " " + text(), "rejected": " " + text()} for _ in range(n)]


def save_start(shape: str, folder: Path) -> None:
    """The weights that all runs begin with."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def work(job: dict[str, Any]) -> None:
    """One process of one run."""
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = Path(job["folder"])
    args = AlignmentConfig(
        output_dir=str(folder),
        objective="aot",
        beta=0.1,
        global_batch_size=job["batch"],
        tokens_per_micro_batch=job["tokens"],
        max_length=job["length"],
        max_steps=STEPS,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        bf16=job["precision"] == "bf16",
        use_cpu=job["toy"],
        reference_cache_dir=str(folder / "cache"),  # of its own: every run scores its reference itself
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **WAYS[job["way"]],
    )
    trainer = AlignmentTrainer(
        job["start"],
        args=args,
        train_dataset=pairs(STEPS * job["batch"], job["length"]),
        processing_class=tokenizer(),
    )
    if not job["toy"]:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    peak = 0 if job["toy"] else torch.cuda.max_memory_allocated()
    peaks: Any = trainer.accelerator.gather(torch.tensor([peak], device=args.device))
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        found = {
            "loss": [entry["loss"] for entry in history],
            "grad_norm": [entry["grad_norm"] for entry in history],
            "peak_gib": None if job["toy"] else int(peaks.max()) / 2**30,
            "train_seconds": seconds,
            "strategy": trainer.engine.choice,
        }
        (folder / "found.json").write_text(json.dumps(found))


def launch(job: dict[str, Any], processes: int) -> dict[str, Any]:
    """Starts the processes of one run and returns what the first of them found."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    plain = job["way"] == "plain"
    visible = {} if job["toy"] else {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(processes)))}
    done = subprocess.run(
        [sys.executable, *([] if plain else launcher), __file__, "--work", json.dumps(job)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **visible},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    return json.loads((folder / "found.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights that a folder holds."""
    return {
        name: tensor
        for file in sorted(folder.glob("model*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def compare(found: dict[str, Any], folder: Path, plain: dict[str, Any], start: Path) -> dict[str, Any]:
    """Differences from the plain process."""

    def relative(name: str) -> float:
        values = zip(found[name], plain["found"][name], strict=True)
        return max(abs(a - b) / abs(b) for a, b in values)

    own, expected, first = weights(folder), weights(plain["folder"]), weights(start)
    if own.keys() != expected.keys():
        return {"failed": f"saved other weights: {sorted(own.keys() ^ expected.keys())[:3]}"}
    largest, product, squares = 0.0, 0.0, [0.0, 0.0]
    for name, tensor in own.items():
        largest = max(largest, (tensor.double() - expected[name].double()).abs().max().item())
        moved = [(w[name].double() - first[name].double()).flatten() for w in (own, expected)]
        product += torch.dot(*moved).item()
        squares = [total + torch.dot(m, m).item() for total, m in zip(squares, moved, strict=True)]
    return {
        "loss_differs_by": relative("loss"),
        "grad_norm_differs_by": relative("grad_norm"),
        "weight_differs_by": largest,
        "cosine_of_updates": product / (squares[0] * squares[1]) ** 0.5,
    }


def plan(toy: bool) -> tuple[list[tuple[str, str, int]], list[str]]:
    """The runs (precision, way, processes), a plain one first for each precision, and what is left out."""
    gpus = 0 if toy else torch.cuda.device_count()
    counts = [2] if toy else [n for n in (1, 2, 4, 8) if n <= gpus]
    skipped: list[str] = []
    ways = ["ddp", "fsdp2", "zero3"]
    if toy:
        ways.remove("fsdp2")
        skipped.append(
            "fsdp2: accelerate shards only where each process has a GPU (test_processes.py shards on the CPU)"
        )
    if toy or importlib.util.find_spec("deepspeed") is None:
        ways.remove("zero3")
        skipped.append("zero3: " + ("needs GPUs here" if toy else "DeepSpeed is not installed"))
    if toy:
        skipped.append("peak memory and bf16: they say nothing on the CPU")
    elif gpus < 2:
        skipped.append("more than one process: there is one GPU")
    precisions = ["float32"] if toy else ["float32", "bf16"]
    return [
        run
        for precision in precisions
        for run in [(precision, "plain", 1), *((precision, way, n) for way in ways for n in counts)]
    ], skipped


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All runs, each compared with the plain one of its precision."""
    shape = "toy" if options.toy else "qwen2.5-0.5b"
    sizes = (
        {"batch": 10, "tokens": 512, "length": 64}
        if options.toy
        else {"batch": 32, "tokens": 8192, "length": 1024}
    )
    start = folder / "start"
    save_start(shape, start)
    rows: list[dict[str, Any]] = []
    plain: dict[str, dict[str, Any]] = {}
    for precision, way, processes in plan(options.toy)[0]:
        run = folder / f"{precision}-{way}-{processes}"
        job = {
            "way": way,
            "precision": precision,
            "toy": options.toy,
            "start": str(start),
            "folder": str(run),
            **sizes,
        }
        row: dict[str, Any] = {
            "precision": precision,
            "way": way,
            "processes": processes,
            **launch(job, processes),
        }
        if way == "plain" and "failed" not in row:
            plain[precision] = {"found": dict(row), "folder": run}
        elif "failed" not in row and precision in plain:
            row |= compare(row, run, plain[precision], start)
        if way != "plain":
            shutil.rmtree(run)  # a model each
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Everything that this machine can run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a toy model, two processes on the CPU")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(json.loads(options.work))
    if not options.toy and not torch.cuda.is_available():
        parser.error("there is no GPU; --toy runs on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    result = {
        "environment": {
            "device": "cpu" if options.toy else torch.cuda.get_device_name(),
            "devices": 0 if options.toy else torch.cuda.device_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "skipped": plan(options.toy)[1],
        "rows": rows,
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("environment", "skipped")}))
    if any("failed" in row for row in rows):
        sys.exit("at least one run failed; see its row")
    return None


if __name__ == "__main__":
    main()
