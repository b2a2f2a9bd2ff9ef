"""Small training runs as a process of their own, for tests that kill it or start several ranks of it.

Usage: python job.py '[{"output_dir": ..., "cache": ..., "config": {...}, "die_at": 5, "resume": false}, ...]'
"""

from __future__ import annotations

import json
import os
import signal
import sys
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
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


def model(job):
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = LlamaConfig(
        vocab_size=64, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0, **sizes
    )
    made = LlamaForCausalLM(config).to(getattr(torch, job.get("dtype", "float32")))
    if job.get("hollow") and os.environ.get("RANK") != "0":  # as transformers 5.17 loads them
        for parameter in made.parameters():
            parameter.data.zero_()
    return made


def sharded(job) -> dict[str, Any]:
    """Settings of FSDP2 or DeepSpeed for several processes on the CPU.

    accelerate shards only processes that have a GPU each; told that these have, it shards them as well.
    """
    if "RANK" not in os.environ:
        return {}
    if kind := job.get("fsdp"):
        config = {
            "version": 2,
            "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
            "state_dict_type": kind,
            "cpu_ram_efficient_loading": job.get("hollow", False),
        }
        return {"fsdp": True, "fsdp_config": config}
    if stage := job.get("zero"):
        os.environ.pop("ACCELERATE_USE_CPU", None)
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
        batch = dict.fromkeys(
            ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping"), "auto"
        )
        return {"use_cpu": False, "deepspeed": {**batch, "zero_optimization": zero}}
    return {}


def run(job):
    settings: dict[str, Any] = {"use_cpu": True, **job["config"], **sharded(job)}
    args = AlignmentConfig(
        output_dir=job["output_dir"],
        reference_cache_dir=job["cache"],
        learning_rate=1e-3,
        beta=0.1,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    if "fsdp" in settings:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = AlignmentTrainer(
        model(job),
        args=args,
        train_dataset=rows(job.get("kind", "paired"), job.get("n", 40)),
        eval_dataset=rows(job.get("kind", "paired"), 11),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=4, target_modules="all-linear") if job.get("lora") else None,
        callbacks=[DieAt(job["die_at"])] if job.get("die_at") else None,
    )
    assert trainer.accelerator.is_fsdp2 == ("fsdp" in settings)
    assert trainer.is_deepspeed_enabled == ("deepspeed" in settings)
    trainer.train(resume_from_checkpoint=bool(job.get("resume")))
    metrics = trainer.evaluate()
    trainer.save_model(job["output_dir"])
    if trainer.is_world_process_zero():
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        with open(os.path.join(job["output_dir"], "result.json"), "w") as file:
            json.dump({"history": history, "metrics": metrics}, file)


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        run(job)
    if dist.is_initialized():
        dist.destroy_process_group()  # else a process may end while gloo's threads still run, under DeepSpeed
