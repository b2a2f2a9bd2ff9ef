"""Schedule-free optimizers, played by SGD that shows half of its weights as their average.

Halving is exact in floating point, so that every comparison with plain SGD is of bits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import equal

EVERY_OTHER = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "max_grad_norm": 0.0}


class HalfShown(torch.optim.SGD):
    """The contract of `schedulefree`: the mode is part of the state, and the same mode twice is once."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        for group in self.param_groups:
            group["train_mode"] = False

    def _switch(self, train):
        for group in self.param_groups:
            if group["train_mode"] != train:
                group["train_mode"] = train
                for p in group["params"]:
                    p.data.mul_(2.0 if train else 0.5)

    def train(self):
        self._switch(True)

    def eval(self):
        self._switch(False)

    def step(self, closure=None):
        assert all(group["train_mode"] for group in self.param_groups), "gradients at averaged weights"
        return super().step(closure)


@pytest.fixture
def halved(build, make_llama):
    """A trainer with that optimizer, on a model whose averaged weights are half of the plain one's."""

    def make(name, **options):
        model = make_llama()
        trainer = build(name, model=model, check_initial_policy=False, **options)
        optimizer = HalfShown(model.parameters(), lr=0.1)
        for p in model.parameters():
            p.data.mul_(0.5)
        trainer.optimizer = optimizer
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return trainer

    return make


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def test_evaluations_checkpoints_and_the_result_are_of_averaged_weights(
    halved, build, make_pairs, make_llama
):
    eval_data = make_pairs(10, seed=5)
    trainer = halved("run", eval_data=eval_data, save_steps=1, **EVERY_OTHER)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    result = weights(trainer.model)
    for step in (1, 2, 3, 4):  # saved behind an evaluation and without one
        saved = make_llama()
        saved.load_state_dict(load_file(folder / f"checkpoint-{step}" / "model.safetensors"), strict=False)
        found = build(f"look {step}", model=saved, eval_data=trainer.eval_dataset).evaluate()["eval_loss"]
        entries = [e for e in trainer.state.log_history if e["step"] == step and "eval_loss" in e]
        assert [e["eval_loss"] for e in entries] == ([found] if step % 2 == 0 else [])
        shorter = halved(f"until {step}", save_strategy="no", max_steps=step, max_grad_norm=0.0)
        shorter.train()
        assert equal(weights(saved), weights(shorter.model))
    assert equal(weights(trainer.model), result), "evaluations do not move them"


def test_training_goes_on_where_it_was(halved, make_pairs):
    """Evaluated and saved on the way or not: the same weights in the end."""
    eval_data = make_pairs(10, seed=5)
    watched = halved("watched", eval_data=eval_data, save_steps=1, **EVERY_OTHER)
    alone = halved("alone", save_strategy="no", **EVERY_OTHER | {"eval_strategy": "no"})
    watched.train()
    alone.train()
    assert equal(weights(watched.model), weights(alone.model))
    cut = halved("cut", stop=3, eval_data=eval_data, save_steps=1, **EVERY_OTHER)
    cut.train()
    resumed = halved("cut", eval_data=eval_data, save_steps=1, **EVERY_OTHER)
    resumed.train(resume_from_checkpoint=True)
    assert equal(weights(resumed.model), weights(alone.model))


def test_the_best_weights_are_loaded_as_they_were_saved(halved, make_pairs):
    """A callback ends the run at a step that is neither evaluated nor saved: nothing else shows the average before."""
    options = EVERY_OTHER | {"save_strategy": "best", "load_best_model_at_end": True}
    data = make_pairs(10, seed=5)
    trainer = halved("best", eval_data=data, metric_for_best_model="loss", stop=3, **options)
    trainer.train()
    best = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    trainer.evaluate()
    assert all(torch.equal(best[name], p) for name, p in trainer.model.named_parameters() if name in best)
