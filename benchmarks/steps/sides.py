"""One process of one side: some optimizer steps of a row, by Distal or by TRL, timed at the edges of steps."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from steps.workload import Row, batch_order, make_adapter, make_model, make_pairs, make_tokenizer

BETA = 0.1
SEED = 0
COMMON: dict[str, Any] = {
    "num_train_epochs": 1,
    "learning_rate": 1e-6,
    "optim": "adamw_torch_fused",
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "seed": SEED,
    "beta": BETA,
    "dataloader_pin_memory": False,
}


class Clock(TrainerCallback):
    """Seconds between the ends of steps, losses, positions read, and if asked the first gradient."""

    def __init__(self, device: str, gradient: Path | None) -> None:
        self.device, self.gradient = device, gradient
        self.marks: list[float] = []
        self.cpu_marks: list[float] = []
        self.losses: list[float] = []
        self.positions: list[int] = []
        self.norms: list[float] = []

    def count(self, _module: Any, args: tuple[Any, ...]) -> None:
        """A hook on the input embeddings: positions that pass through the model, padding and repetitions included."""
        if self.positions:
            self.positions[-1] += args[0].numel()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The clock starts with the first step."""
        if not self.marks:
            self._mark()
        self.positions.append(0)

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        """Keep the first gradient."""
        if self.gradient is not None and not self.gradient.exists():
            from safetensors.torch import save_file

            found = {
                name.removeprefix("base_model.model."): p.grad.float()
                for name, p in model.named_parameters()
                if p.grad is not None
            }
            save_file(found, self.gradient)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is over when its work is."""
        self._mark()

    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        """Keep the losses."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def _mark(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())
        self.cpu_marks.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """Of each step."""
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]

    @property
    def cpu_seconds(self) -> list[float]:
        """Of each step, over all threads of this process: what is left of a timing where a machine is shared."""
        return [b - a for a, b in zip(self.cpu_marks, self.cpu_marks[1:], strict=False)]


def peak_mib(device: str) -> float:
    """Maximum resident set size of this process, or allocated memory of the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_distal(
    row: Row, options: dict[str, Any], folder: str, clock: Clock, *, check: bool
) -> dict[str, Any]:
    """Distal's trainer, at its defaults but for `options` (and `own_head`, which bypasses the fused head)."""
    from distal.training import AlignmentConfig, AlignmentTrainer

    options = dict(options)
    if options.pop("own_head", False):
        import distal.scoring.logprobs as logprobs

        logprobs.plain_head = lambda *_: None
    known = {f.name for f in dataclasses.fields(AlignmentConfig)}
    if options.get("layout") == "auto" and "layout" not in known:
        del options["layout"]
    profile = options.pop("profile", None)
    settings: dict[str, Any] = COMMON | {
        "output_dir": folder,
        "reference_cache_dir": folder,
        "objective": row.objective,
        "global_batch_size": row.pairs,
        "max_length": 4096,
        "use_cpu": row.device == "cpu",
        "check_initial_policy": not check and row.tuning == "full",
    }
    if check:
        settings["max_grad_norm"] = 0.0
    model = make_model(row, moved=check)
    trainer = AlignmentTrainer(
        model,
        make_model(row) if check and row.tuning == "full" else None,
        args=AlignmentConfig(**(settings | options)),
        train_dataset=make_pairs(row),
        processing_class=make_tokenizer(row.vocabulary),
        peft_config=make_adapter(row),
        callbacks=[clock],
    )
    model.get_input_embeddings().register_forward_pre_hook(clock.count)
    started = time.perf_counter()
    if profile:
        profiled(trainer, row, Path(profile))
        return {}
    trainer.train()
    before = clock.marks[0] - started
    return {"before_training_s": before, "strategy": trainer.engine.choice}


def run_trl(row: Row, options: dict[str, Any], folder: str, clock: Clock, *, check: bool) -> dict[str, Any]:
    """TRL's trainer on the same batches.

    `micro` pairs at a time; `grouped` orders the pairs of each batch by length, so that micro-batches pad little.
    """
    os.environ["HF_DATASETS_CACHE"] = folder  # reference scores are computed in every process, and timed
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    options = dict(options)
    micro, grouped = options.pop("micro", row.pairs), options.pop("grouped", False)
    pairs, tokenizer = make_pairs(row), make_tokenizer(row.vocabulary)
    order = batch_order(row, tokenizer, pairs, SEED)
    if grouped:
        size = [
            len(p["prompt"].split()) + max(len(p["chosen"].split()), len(p["rejected"].split()))
            for p in pairs
        ]
        order = [sorted(batch, key=lambda i: -size[i]) for batch in order]
    settings: dict[str, Any] = COMMON | {
        "output_dir": folder,
        "loss_type": ["aot" if row.objective == "aot" else "sigmoid"],
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": row.pairs // micro,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "bf16": False,
        "use_cpu": row.device == "cpu",
    }
    if check:
        settings["max_grad_norm"] = 0.0
    model = make_model(row, moved=check)
    adapter = make_adapter(row)
    started = time.perf_counter()
    trainer = DPOTrainer(
        model,
        ref_model=None if adapter is not None else make_model(row),
        args=DPOConfig(**(settings | options)),
        train_dataset=Dataset.from_list([pairs[i] for batch in order for i in batch]),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[clock],
    )
    model.get_input_embeddings().register_forward_pre_hook(clock.count)
    trainer.train()
    return {"before_training_s": clock.marks[0] - started}


def profiled(trainer: Any, row: Row, path: Path) -> None:
    """A profile of one step after a warm one: a table of operations by their own time, and a trace."""
    trainer.args.max_steps = 1
    trainer.train()
    from torch.profiler import ProfilerActivity, profile

    rows = [r for i in range(row.pairs) for r in trainer.train_dataset[i]]
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if row.device != "cpu" else [])
    trainer.model.zero_grad()
    with profile(activities=activities, record_shapes=True) as recorded:
        trainer.engine.step(trainer.model, rows)
    by = "self_cpu_time_total" if row.device == "cpu" else "self_device_time_total"
    table = recorded.key_averages(group_by_input_shape=True).table(
        sort_by=by, row_limit=25, max_shapes_column_width=70
    )
    path.with_suffix(".txt").write_text(
        recorded.key_averages().table(sort_by=by, row_limit=15) + "\n" + table
    )


def main(arguments: list[str]) -> None:
    """Run one side and print JSON: SIDE ROW OPTIONS GRADIENT."""
    side, row, options, gradient = arguments
    row = Row(**json.loads(row))
    clock = Clock(row.device, Path(gradient) if gradient else None)
    torch.manual_seed(0)
    warm = make_model(row)  # the interpreter's and the libraries' memory, and that of a model, are no step's
    del warm
    before = peak_mib(row.device)
    run = run_distal if side == "distal" else run_trl
    with tempfile.TemporaryDirectory() as folder:
        facts = run(row, json.loads(options), folder, clock, check=bool(gradient))
    timed = slice(row.warmup, row.warmup + row.steps)
    record = facts | {
        "seconds": clock.seconds[timed],
        "cpu_seconds": clock.cpu_seconds[timed],
        "losses": clock.losses,
        "positions": clock.positions[timed],
        "peak_mib": peak_mib(row.device),
        "before_mib": before,
        "threads": torch.get_num_threads(),
    }
    if row.device != "cpu":
        record["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
