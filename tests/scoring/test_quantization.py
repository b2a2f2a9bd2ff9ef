"""Quantised bases: what is refused without bitsandbytes, and, with it, identity, precision, head and training."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from distal.errors import ConfigError, ModelError
from distal.scoring import (
    PACKED,
    AdapterOff,
    compute_dtype,
    score_row_list,
    score_rows,
    weights_fingerprint,
)
from distal.scoring.head import head_of, plain_head
from distal.scoring.loading import load_model
from distal.scoring.quantization import is_quantized
from distal.training import AlignmentConfig, AlignmentTrainer
from distal.workflow.options import ModelOptions
from tests.training.runs import StopAfter, equal, state_of

INSTALLED = find_spec("bitsandbytes") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="needs bitsandbytes (the extra `quantized`)")
# bitsandbytes and PEFT warn of what is slow or will change in others.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
KINDS = ["8bit", "4bit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_llama, word_tokenizer) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_llama(hidden_size=64, intermediate_size=64).save_pretrained(path)
    word_tokenizer.save_pretrained(path)
    return path


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_message_says_how_to_get_it(folder):
    with pytest.raises(ModelError, match="pip install 'bitsandbytes"):
        load_model(folder, quantization="4bit")


def test_unknown_values_and_options_without_effect(folder):
    with pytest.raises(ModelError, match="unknown quantization '2bit'; choose one of none, 8bit, 4bit"):
        load_model(folder, quantization="2bit")
    with pytest.raises(ModelError, match="unknown dtype 'int8'"):
        load_model(folder, quantization_dtype="int8")
    with pytest.raises(ConfigError, match="no effect with quantization: 8bit"):
        ModelOptions(model="m", quantization="8bit", quantization_dtype="bfloat16")


@needs_it
@pytest.mark.parametrize("kind", KINDS)
def test_identity_precision_and_head(folder, make_rows, kind):
    plain, model = load_model(folder), load_model(folder, dtype="float32", quantization=kind)
    assert is_quantized(model)
    assert not is_quantized(plain)
    assert weights_fingerprint(model) == weights_fingerprint(
        load_model(folder, dtype="float32", quantization=kind)
    )
    assert weights_fingerprint(model) != weights_fingerprint(plain)
    assert compute_dtype(load_model(folder, quantization=kind), None) == torch.bfloat16
    rows = make_rows(4)
    head = head_of(model)
    assert plain_head(model, head, torch.tensor([1, 5, 9])) is not None  # it is not quantised
    scores, exact = score_row_list(model, rows), score_row_list(plain, rows)
    np.testing.assert_allclose(scores, exact, rtol=0.2)
    assert not np.allclose(scores, exact, rtol=1e-6)
    assert compute_dtype(model, None) == (torch.bfloat16 if kind == "8bit" else torch.float32)
    with torch.no_grad():  # what stands beside a row changes nothing
        alone = torch.cat([score_rows(model, [row], PACKED) for row in rows])
        torch.testing.assert_close(score_rows(model, rows, PACKED), alone, rtol=1e-2, atol=1e-2)


@needs_it
def test_scales_are_part_of_the_identity(folder, tmp_path):
    """Weights that differ by a factor have the same 4-bit numbers."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name] * 2}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    one, other = load_model(folder, quantization="4bit"), load_model(tmp_path, quantization="4bit")
    packed = [dict(model.named_parameters())[name] for model in (one, other)]
    assert torch.equal(*packed)
    assert weights_fingerprint(one) != weights_fingerprint(other)


@needs_it
def test_weights_that_are_not_finite_are_refused(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight holds NaN or infinity"):
        load_model(tmp_path, quantization="4bit")


@needs_it
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_trained_and_resumed(folder, tmp_path, make_pairs, word_tokenizer, kind):
    def run(name: str, stop: int | None = None, resume: bool | None = None, **options: Any) -> Any:
        args = AlignmentConfig(
            output_dir=str(tmp_path / name),
            reference_cache_dir=str(tmp_path / "cache"),
            global_batch_size=4,
            micro_batch_size=2,
            max_steps=3,
            save_steps=1,
            learning_rate=1e-3,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = AlignmentTrainer(
            load_model(folder, quantization=kind),
            args=args,
            train_dataset=make_pairs(8),
            processing_class=word_tokenizer,
            callbacks=None if stop is None else [StopAfter(stop)],
            **options,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    adapter = LoraConfig(r=2, target_modules="all-linear")
    whole = run("whole", peft_config=adapter)
    assert isinstance(whole.reference, AdapterOff)
    assert whole.reference.fingerprint() == weights_fingerprint(load_model(folder, quantization=kind))
    run("cut", stop=1, peft_config=adapter)
    assert equal(state_of(run("cut", resume=True, peft_config=adapter)), state_of(whole))
    with pytest.raises(ConfigError, match="cannot be trained themselves"):
        run("full")
