"""Training with compiled blocks: the weights of a run without, under names without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from distal.errors import ConfigError
from distal.scoring.compilation import has_compiled_blocks
from distal.training.samples import SampleCallback

# Dynamo looks at tensors inside a graph in a way that PyTorch itself warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def test_an_adapter_with_checkpointing_trains_alike(build):
    def trained(name, **options):
        adapter = LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
        run = build(
            name, peft_config=adapter, max_steps=3, save_steps=3, gradient_checkpointing=True, **options
        )
        run.train()
        saved = Path(run.args.output_dir) / "checkpoint-3" / "adapter_model.safetensors"
        return run, load_file(saved)

    _, expected = trained("plain")
    run, found = trained("compiled", compile_blocks=True, compile_backend="aot_eager")
    assert has_compiled_blocks(run.model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert run.engine.choice.startswith(("retain", "recompute"))  # not deferred, which looks into blocks


def test_answers_are_written_without_compiled_blocks(build, make_pairs):
    """Whose caches, which grow by a token each time, would ask for graph after graph."""
    run = build(
        eval_data=make_pairs(6),
        max_steps=1,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=1,
        sample_prompts=2,
        compile_blocks=True,
        compile_backend="eager",
    )
    compiled = []
    (callback,) = [one for one in run.callback_handler.callbacks if isinstance(one, SampleCallback)]

    def answers(model, prompts, settings):
        compiled.append(has_compiled_blocks(model))
        return [[1] for _ in prompts]

    callback.generate = answers
    run.train()
    assert compiled == [False]
    assert has_compiled_blocks(run.model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile_backend": "eager"}, "compile_backend has no effect without compile_blocks"),
        ({"compile_blocks": True, "torch_compile": True}, "set one"),
        ({"compile_blocks": True, "strategy": "deferred"}, "strategy: deferred looks into blocks"),
        ({"compile_blocks": True, "compile_backend": "inductr"}, "'inductr' is unknown"),
    ],
)
def test_options_that_contradict_each_other(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)
