"""A small training run as a process of its own, for tests that kill it or start several ranks of it.

Usage: python job.py '{"output_dir": ..., "cache": ..., "config": {...}, "die_at": 5, "resume": false}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from distal.training import AlignmentConfig, AlignmentTrainer


class DieAt(TrainerCallback):
    """Kills its own process, without any chance to clean up, when a step is done."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def tokenizer():
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 64)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def rows(kind, n):
    random = Random(0)

    def text(longest):
        return " ".join(f"w{random.randrange(3, 64)}" for _ in range(random.randrange(1, longest)))

    if kind == "paired":
        return [{"prompt": text(6), "chosen": " " + text(12), "rejected": " " + text(12)} for _ in range(n)]
    return [{"prompt": text(6), "completion": " " + text(12), "label": i % 3 != 2} for i in range(n)]


def main(job):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0, **sizes)
    ).to(getattr(torch, job.get("dtype", "float32")))
    trainer = AlignmentTrainer(
        model,
        args=AlignmentConfig(
            output_dir=job["output_dir"],
            reference_cache_dir=job["cache"],
            learning_rate=1e-3,
            beta=0.1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **job["config"],
        ),
        train_dataset=rows(job.get("kind", "paired"), job.get("n", 40)),
        eval_dataset=rows(job.get("kind", "paired"), 11),
        processing_class=tokenizer(),
        callbacks=[DieAt(job["die_at"])] if job.get("die_at") else None,
    )
    trainer.train(resume_from_checkpoint=bool(job.get("resume")))
    metrics = trainer.evaluate()
    trainer.save_model(job["output_dir"])
    if trainer.is_world_process_zero():
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        with open(os.path.join(job["output_dir"], "result.json"), "w") as file:
            json.dump({"history": history, "metrics": metrics}, file)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
